#include "server/listener_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

enum {
    BACKLOG = 1024,
    LOCK_TRIES = 100, // two seconds; a server that starts has done with it at once
    LOCK_PAUSE_MS = 20,
    SEND_BUFFER_BYTES = 64 * 1024,
    NOT_SENT_BYTES = 16 * 1024,  // a slow reader's tokens wait here and not in the kernel
    USER_TIMEOUT_MS = 60 * 1000, // a peer that acknowledges nothing for so long is gone
};

// ---- Ports

static bool is_loopback(const struct sockaddr *address) {
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == 127;
    return address->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

// Accepted sockets inherit these.
static void set_options(int fd) {
    int on = 1, send_bytes = SEND_BUFFER_BYTES, not_sent = NOT_SENT_BYTES, timeout = USER_TIMEOUT_MS;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &not_sent, sizeof not_sent);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
}

// With what is left of connections of a server that was there before. Two sockets that both allow it can be bound to
// one address before one of them listens, so that it is allowed only where it has to be until then.
static void share_address(int fd, bool share) {
    int value = share;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, sizeof value);
}

static int bind_one(const struct addrinfo *info) {
    int fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    set_options(fd);
    bool bound = bind(fd, info->ai_addr, info->ai_addrlen) == 0;
    if (!bound && errno == EADDRINUSE) {
        share_address(fd, true);
        bound = bind(fd, info->ai_addr, info->ai_addrlen) == 0;
    }
    int cause = errno;
    share_address(fd, false);
    if (bound) return fd;
    close(fd);
    errno = cause;
    return -1;
}

int listener_check_host(const char *host, struct error *error) {
    const char *scheme = strstr(host, "://"), *name = scheme ? scheme + 3 : host;
    bool bracketed = *name == '[';
    name += bracketed;
    size_t bytes = strcspn(name, bracketed ? "]/" : "/");
    const char *colon = memchr(name, ':', bytes);
    if (colon && !bracketed && !strchr(colon + 1, ':')) bytes = (size_t)(colon - name); // more colons: IPv6
    if (bytes == 0 || (name == host && !name[bytes])) return 0;
    const char *port = name + bytes + (name[bytes] == ']');
    int digits = *port == ':' ? (int)strspn(port + 1, "0123456789") : 0;
    return error_set(error, ERROR_ARGUMENT,
                     "--host is `%.100s`; it must be a name or an address alone: --host %.*s%s%.*s", host, (int)bytes,
                     name, digits ? " --port " : "", digits, port + 1);
}

static int cannot_listen(const char *host, const char *port, int cause, struct error *error) {
    const char *hint = cause == EADDRINUSE || cause == EACCES ? "; choose another with --port (0: any free one)" : "";
    // What is no address of this machine is a wrong setting, as a name that there is not.
    return error_set(error, cause == EADDRNOTAVAIL ? ERROR_ARGUMENT : ERROR_IO, "cannot listen on %s port %s: %s%s",
                     host, port, strerror(cause), hint);
}

int listener_bind(struct listener_socket *out, const char *host, int port, struct error *error) {
    char service[8];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list;
    int code = listener_check_host(host, error);
    if (code) return code;
    code = getaddrinfo(host, service, &hints, &list);
    if (code != 0)
        return error_set(error, ERROR_ARGUMENT, "host `%s` can not be resolved: %s", host, gai_strerror(code));

    // IPv4 first: clients that are told "localhost" try 127.0.0.1 in any case, ::1 only some of them.
    int fd = -1, cause = 0;
    for (int pass = 0; pass < 2 && fd < 0; pass++)
        for (const struct addrinfo *at = list; at && fd < 0; at = at->ai_next)
            if ((at->ai_family == AF_INET) == (pass == 0) && (fd = bind_one(at)) < 0) cause = errno;
    freeaddrinfo(list);
    if (fd < 0) return cannot_listen(host, service, cause, error);

    struct sockaddr_storage bound;
    socklen_t bytes = sizeof bound;
    char name[NI_MAXHOST], number[NI_MAXSERV];
    if (getsockname(fd, (struct sockaddr *)&bound, &bytes) != 0 ||
        getnameinfo((struct sockaddr *)&bound, bytes, name, sizeof name, number, sizeof number,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        close(fd);
        return error_set(error, ERROR_IO, "the address of the listening socket can not be told");
    }
    *out = (struct listener_socket){.fd = fd, .loopback = is_loopback((struct sockaddr *)&bound)};
    snprintf(out->host, sizeof out->host, "%s", host);
    name[LISTENER_ADDRESS_BYTES - 64] = '\0'; // numeric addresses are far shorter
    snprintf(out->address, sizeof out->address, strchr(name, ':') ? "[%s]:%s" : "%s:%s", name, number);
    return 0;
}

// ---- Unix sockets

enum occupant { OCCUPANT_NONE, OCCUPANT_SERVER, OCCUPANT_UNKNOWN };

// Unknown: errno says why. A server with no room for more connections is one.
static enum occupant occupant_of(const struct sockaddr_un *address) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return OCCUPANT_UNKNOWN;
    int cause = connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 ? 0 : errno;
    close(fd);
    errno = cause;
    if (cause == ECONNREFUSED || cause == ENOENT) return OCCUPANT_NONE;
    return cause == 0 || cause == EAGAIN || cause == EINPROGRESS ? OCCUPANT_SERVER : OCCUPANT_UNKNOWN;
}

// Removes what another server has left behind.
static int clear_path(const struct sockaddr_un *address, struct error *error) {
    struct stat found;
    const char *path = address->sun_path;
    if (lstat(path, &found) != 0) return 0;
    if (!S_ISSOCK(found.st_mode))
        return error_set(error, ERROR_IO, "cannot listen on %s: it is there, and no socket", path);
    enum occupant occupant = occupant_of(address);
    if (occupant == OCCUPANT_SERVER)
        return error_set(error, ERROR_IO, "cannot listen on %s: another server does", path);
    if (occupant == OCCUPANT_UNKNOWN) // it may be in use
        return error_set(error, ERROR_IO, "cannot listen on %s: the socket that is there can not be connected to: %s",
                         path, strerror(errno));
    if (unlink(path) == 0 || errno == ENOENT) return 0;
    return error_set(error, ERROR_IO, "cannot remove the old socket %s: %s", path, strerror(errno));
}

static int bind_path(int fd, const struct sockaddr_un *address, mode_t mode, struct error *error) {
    int code = clear_path(address, error);
    if (code) return code;
    mode_t before = umask(~mode & 0777); // from its first moment on, nobody else may connect
    bool bound = bind(fd, (const struct sockaddr *)address, sizeof *address) == 0;
    int cause = errno;
    umask(before);
    if (bound && listen(fd, BACKLOG) == 0) return 0;
    if (bound) cause = errno;
    return error_set(error, ERROR_IO, "cannot listen on %s: %s", address->sun_path, strerror(cause));
}

// Whoever holds a lock on a file, as the system tells it; 0: it does not, or the process is in another container.
static long lock_holder(int fd) {
    struct stat file;
    FILE *locks = fopen("/proc/locks", "re");
    if (!locks) return 0;
    char line[128];
    long holder = 0, process;
    unsigned int major_number, minor_number;
    unsigned long long number;
    bool known = fstat(fd, &file) == 0;
    while (known && holder <= 0 && fgets(line, sizeof line, locks))
        if (sscanf(line, "%*d: FLOCK %*s %*s %ld %x:%x:%llu", &process, &major_number, &minor_number, &number) == 4 &&
            makedev(major_number, minor_number) == file.st_dev && number == file.st_ino)
            holder = process;
    fclose(locks);
    return holder > 0 ? holder : 0;
}

static void tell_locked(int fd, const char *path, const char *directory, struct error *error) {
    char holder[64] = "another program";
    long process = lock_holder(fd);
    if (process) snprintf(holder, sizeof holder, "process %ld", process);
    error_set(error, ERROR_IO,
              "cannot listen on %s: %s holds a lock on the directory %s, as servers do only while they start", path,
              holder, directory);
}

// Two servers that start at once look one after the other: a lock on the directory that the socket lies in. Who may
// open it may hold a lock for ever, so that it is waited for only as long as a server that starts may need.
static int lock_directory(int *out, const char *path, struct error *error) {
    char copy[LISTENER_PATH_BYTES];
    snprintf(copy, sizeof copy, "%s", path);
    char *slash = strrchr(copy, '/');
    if (slash) slash[slash == copy] = '\0';
    const char *directory = slash ? copy : ".";
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_set(error, ERROR_IO, "cannot listen on %s: its directory %s can not be opened: %s", path,
                         directory, strerror(errno));
    const struct timespec pause = {.tv_nsec = LOCK_PAUSE_MS * 1000000L};
    int cause = flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    for (int i = 0; i < LOCK_TRIES && (cause == EWOULDBLOCK || cause == EINTR); i++) {
        nanosleep(&pause, NULL);
        cause = flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    }
    if (cause == 0) {
        *out = fd;
        return 0;
    }
    if (cause == EWOULDBLOCK)
        tell_locked(fd, path, directory, error);
    else
        error_set(error, ERROR_IO, "cannot listen on %s: its directory %s can not be locked: %s", path, directory,
                  strerror(cause));
    close(fd);
    return ERROR_IO;
}

int listener_unix_address(struct sockaddr_un *out, const char *path, struct error *error) {
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    _Static_assert(sizeof out->sun_path == LISTENER_PATH_BYTES, "of the system");
    if (!*path || strlen(path) >= sizeof out->sun_path)
        return error_set(error, ERROR_ARGUMENT, "--unix-socket is `%.200s`; a path has 1 to %zu bytes", path,
                         sizeof out->sun_path - 1);
    memcpy(out->sun_path, path, strlen(path));
    return 0;
}

int listener_bind_unix(struct listener_socket *out, const char *path, mode_t mode, struct error *error) {
    struct sockaddr_un address;
    int directory = -1, code = listener_unix_address(&address, path, error);
    if (!code) code = lock_directory(&directory, path, error);
    if (code) return code;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        code = error_set(error, ERROR_IO, "no socket can be made: %s", strerror(errno));
        close(directory);
        return code;
    }
    code = bind_path(fd, &address, mode, error);
    struct stat file = {0};
    if (!code && lstat(path, &file) != 0)
        code = error_set(error, ERROR_IO, "%s can not be examined: %s", path, strerror(errno));
    close(directory);
    if (code) {
        close(fd);
        return code;
    }
    *out = (struct listener_socket){.fd = fd, .device = file.st_dev, .file = file.st_ino};
    snprintf(out->path, sizeof out->path, "%s", path);
    snprintf(out->address, sizeof out->address, "%s", path);
    return 0;
}

// ---- Both

int listener_listen(const struct listener_socket *socket, struct error *error) {
    if (socket->path[0]) return 0;   // it does already
    share_address(socket->fd, true); // connections inherit it
    if (listen(socket->fd, BACKLOG) == 0) return 0;
    return cannot_listen(socket->host, strrchr(socket->address, ':') + 1, errno, error);
}

static void remove_file(struct listener_socket *socket) {
    struct stat found;
    if (socket->path[0] && lstat(socket->path, &found) == 0 && found.st_dev == socket->device &&
        found.st_ino == socket->file)
        unlink(socket->path);
    socket->path[0] = '\0';
}

void listener_unbind(struct listener_socket *socket) {
    remove_file(socket);
    if (socket->fd >= 0) close(socket->fd);
    socket->fd = -1;
}
