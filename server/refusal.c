#include "server/refusal.h"

#include "api/reply.h"

#include <sys/socket.h>
#include <time.h>

static const char *reason(int status) {
    switch (status) {
    case 400:
        return "Bad Request";
    case 408:
        return "Request Timeout";
    case 413:
        return "Content Too Large";
    case 429:
        return "Too Many Requests";
    case 431:
        return "Request Header Fields Too Large";
    case 503:
        return "Service Unavailable";
    case 505:
        return "HTTP Version Not Supported";
    default:
        return "Error";
    }
}

void refusal_send(int fd, int status, const char *request_id, const struct error *error) {
    struct api_reply reply;
    api_reply_init(&reply);
    api_reply_error(&reply, error);

    char date[64];
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &utc));

    struct buffer out;
    buffer_init(&out, API_REPLY_BYTES_MAX);
    buffer_format(&out, "HTTP/1.1 %d %s\r\nDate: %s\r\nConnection: close\r\nContent-Type: %s\r\n", status,
                  reason(status), date, reply.content_type);
    char seconds[API_RETRY_BYTES], milliseconds[API_RETRY_BYTES];
    api_retry_after(reply.retry_after_seconds, seconds, milliseconds);
    if (reply.retry_after_seconds > 0)
        buffer_format(&out, "retry-after: %s\r\nretry-after-ms: %s\r\n", seconds, milliseconds);
    buffer_format(&out, "x-request-id: %s\r\nContent-Length: %zu\r\n\r\n", request_id, reply.body.bytes);
    if (reply.body.bytes) buffer_append(&out, reply.body.data, reply.body.bytes);
    if (!out.failed && !reply.body.failed) (void)!send(fd, out.data, out.bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    buffer_finish(&out);
    buffer_finish(&reply.body);
}
