#include "engine/bandwidth.h"

#include <string.h>

static const double CPU_LEAST = 0.25; // of the bus, whatever the device uses: else the CPU's part would be the longer

void bandwidth_init(struct bandwidth *bus, double rate) {
    *bus = (struct bandwidth){.rate = rate};
}

// Shares are for the call at work. Its predecessor's debts are the predecessor's.
static void share_out(struct bandwidth *bus, double now) {
    double left = bus->calls > 0 ? bus->rate - bus->demand[0] : bus->rate;
    bus->cpu_rate = left > CPU_LEAST * bus->rate ? left : CPU_LEAST * bus->rate;
    bus->tokens = 0;
    bus->at = now;
}

void bandwidth_begin(struct bandwidth *bus, double now, double bytes, double seconds) {
    if (bus->calls == BANDWIDTH_CALLS_MAX) return;
    bus->demand[bus->calls++] = seconds > 0 ? bytes / seconds : 0;
    if (bus->calls == 1) share_out(bus, now);
}

void bandwidth_end(struct bandwidth *bus, double now) {
    if (bus->calls == 0) return;
    bus->calls--;
    memmove(bus->demand, bus->demand + 1, (size_t)bus->calls * sizeof *bus->demand);
    share_out(bus, now);
}

void bandwidth_end_all(struct bandwidth *bus) {
    bus->calls = 0;
}

double bandwidth_ask(struct bandwidth *bus, double now, double bytes) {
    if (!(bus->rate > 0) || bus->calls == 0 || !(bus->demand[0] > 0)) return 0;
    bus->tokens += (now - bus->at) * bus->cpu_rate;
    if (bus->tokens > 0) bus->tokens = 0; // what was not used is gone: the bus keeps nothing
    bus->at = now;
    double wait = -bus->tokens / bus->cpu_rate;
    bus->tokens -= bytes;
    return wait;
}
