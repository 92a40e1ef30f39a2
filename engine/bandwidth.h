// The memory bus, which the CPU and a device share: a semaphore of tokens, a byte each. While the device is at work it
// has its share of what the bus gives first, as much as it uses when it is alone; what is left is the CPU's, which asks
// before it reads much and is told how long to wait. Nobody is ever kept for longer than it takes to read what he had
// before. Pure, with the caller's clock; the engine thread's.
#ifndef ENGINE_BANDWIDTH_H
#define ENGINE_BANDWIDTH_H

enum { BANDWIDTH_CALLS_MAX = 4 }; // of the device, that have begun and not ended

struct bandwidth {
    double rate;     // bytes a second of the bus; 0: nobody is kept waiting
    double cpu_rate; // the CPU's share, while the device is at work
    double tokens;   // of the CPU, never more than none: bytes that it has had beyond its share
    double at;       // when that was so
    double demand[BANDWIDTH_CALLS_MAX]; // bytes a second of calls of the device, the one at work first
    int calls;
};

void bandwidth_init(struct bandwidth *bus, double rate);

// The device has been given a call that reads so many bytes, and takes so long alone. Of 0 bytes: it wants no share.
void bandwidth_begin(struct bandwidth *bus, double now, double bytes, double seconds);
// The call that began first has ended.
void bandwidth_end(struct bandwidth *bus, double now);
// All have: the device is idle, or gone.
void bandwidth_end_all(struct bandwidth *bus);

// The CPU is about to read so many bytes: how many seconds it should wait before, unless the device ends earlier.
double bandwidth_ask(struct bandwidth *bus, double now, double bytes);

#endif
