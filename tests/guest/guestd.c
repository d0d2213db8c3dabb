/*
 * Services of the test guest: one program, a thread per service
 *
 * Usage: guestd [tick-ms]. With a tick, "tick N" is printed on the console
 * every tick-ms milliseconds, so that a guest without a network shows where
 * it is.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include "guestd.h"

typedef struct Service {
    int port;
    ServeFunc *serve;
    int fd;
} Service;

static Service services[] = {
    { PORT_CONTROL, serve_control, -1 },
    { PORT_RECORD, serve_record, -1 },
    { PORT_ECHO, serve_echo, -1 },
    { PORT_UPLOAD, serve_upload, -1 },
    { PORT_DOWNLOAD, serve_download, -1 },
    { PORT_SINK, serve_sink, -1 },
    { PORT_PAGE, serve_page, -1 },
};

bool write_all(int fd, const void *buf, size_t len)
{
    const char *p = buf;

    while (len) {
        ssize_t n = write(fd, p, len);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        p += n;
        len -= n;
    }
    return true;
}

bool read_all(int fd, void *buf, size_t len)
{
    char *p = buf;

    while (len) {
        ssize_t n = read(fd, p, len);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        p += n;
        len -= n;
    }
    return true;
}

bool read_line(LineReader *r, char *line, size_t size)
{
    for (;;) {
        char *end = memchr(r->buf, '\n', r->len);
        ssize_t n;

        if (end) {
            size_t used = end - r->buf;

            if (used >= size) {
                return false;
            }
            memcpy(line, r->buf, used);
            line[used] = 0;
            r->len -= used + 1;
            memmove(r->buf, end + 1, r->len);
            return true;
        }
        if (r->len == sizeof(r->buf)) {
            return false;
        }
        n = read(r->fd, r->buf + r->len, sizeof(r->buf) - r->len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        r->len += n;
    }
}

uint64_t clock_ns(int clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

void spawn(void *(*fn)(void *), void *arg)
{
    pthread_attr_t attr;
    pthread_t thread;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 256 * 1024);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attr, fn, arg)) {
        perror("guestd: thread");
        exit(1);
    }
    pthread_attr_destroy(&attr);
}

static void *connection_thread(void *opaque)
{
    Service *conn = opaque;

    conn->serve(conn->fd);
    close(conn->fd);
    free(conn);
    return NULL;
}

void serve_tcp(int port, ServeFunc *serve)
{
    struct sockaddr_in6 addr = {
        .sin6_family = AF_INET6, .sin6_port = htons(port),
    };
    int family = AF_INET6, one = 1, fd;

    fd = socket(family, SOCK_STREAM, 0);
    if (fd < 0) {
        struct sockaddr_in in = {
            .sin_family = AF_INET, .sin_port = htons(port),
        };

        memcpy(&addr, &in, sizeof(in));
        family = AF_INET;
        fd = socket(family, SOCK_STREAM, 0);
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&addr, family == AF_INET ?
             sizeof(struct sockaddr_in) : sizeof(addr)) ||
        listen(fd, 256)) {
        perror("guestd: listen");
        exit(1);
    }
    for (;;) {
        Service *conn = calloc(1, sizeof(*conn));

        conn->serve = serve;
        conn->fd = accept(fd, NULL, NULL);
        if (conn->fd < 0) {
            free(conn);
            continue;
        }
        setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        spawn(connection_thread, conn);
    }
}

static void *service_thread(void *opaque)
{
    Service *s = opaque;

    serve_tcp(s->port, s->serve);
    return NULL;
}

static void *udp_thread(void *opaque)
{
    serve_udp();
    return NULL;
}

static void *tick_thread(void *opaque)
{
    unsigned ms = *(unsigned *)opaque;
    struct timespec ts = { ms / 1000, ms % 1000 * 1000000l };
    uint64_t n = 0, pages, bad;

    for (;;) {
        dirty_stat(&pages, &bad);
        printf("tick %llu pages=%llu bad=%llu\n", (unsigned long long)n++,
               (unsigned long long)pages, (unsigned long long)bad);
        nanosleep(&ts, NULL);
    }
    return NULL;
}

/* Commands on the console: "ID COMMAND..." is answered with "@ID REPLY". */
static void serve_console(void)
{
    static LineReader r;
    static char line[1024], reply[UDP_REQUESTS + 64];
    struct termios tio;

    r.fd = open("/dev/console", O_RDWR | O_NOCTTY);
    if (r.fd >= 0 && tcgetattr(r.fd, &tio) == 0) {
        tio.c_lflag &= ~(ECHO | ISIG);
        tcsetattr(r.fd, TCSANOW, &tio);
    }
    while (r.fd >= 0 && read_line(&r, line, sizeof(line))) {
        char *cmd = strchr(line, ' ');

        if (!cmd) {
            continue;
        }
        *cmd++ = 0;
        control_command(cmd, reply, sizeof(reply));
        printf("@%s %s\n", line, reply);
    }
}

int main(int argc, char **argv)
{
    static unsigned tick_ms;
    size_t i;

    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (i = 0; i < sizeof(services) / sizeof(services[0]); i++) {
        spawn(service_thread, &services[i]);
    }
    spawn(udp_thread, NULL);
    tick_ms = argc > 1 ? atoi(argv[1]) : 0;
    if (tick_ms) {
        spawn(tick_thread, &tick_ms);
    }
    printf("guestd ready\n");
    serve_console();
    for (;;) {
        pause();
    }
}
