/* libfaketime takes a sleep until a time of CLOCK_MONOTONIC, as Python sleeps, for one of
 * the clock that it fakes: it fails, or takes for ever. Preloaded before libfaketime, this
 * goes to the kernel. */
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until,
                    struct timespec *left) {
    return syscall(SYS_clock_nanosleep, clock, flags, until, left) ? errno : 0;
}
