/*
 * Load for the guest's services, and what a client sees of it
 *
 * load http IP PORT SECONDS [RATE]     a connection for each small GET
 * load churn IP PORT SECONDS [RATE]    a connection for each echoed byte
 * load echo IP PORT SECONDS [RATE]     round trips of 64 bytes on one
 * load time IP PORT SECONDS [RATE]     what the guest's clock says, on one
 * load download IP PORT SECONDS MIB    transfers of that size, on one
 * load upload IP PORT SECONDS MIB      the same; what was taken counts
 *
 * With a RATE, requests a second, each at a random instant of its share of
 * time, latency counts from when a request was due: one that waits for those
 * before it has waited. Ends after SECONDS, but for a request under way, which
 * may take LIMIT_S; prints one JSON object.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000ull
#define MIB 1048576ull

/* A request that takes longer has failed. */
enum { LIMIT_S = 20, BLOCK = 65536, ROUND_TRIP = 64 };
enum { PAGE_MIN = 64 };      /* bytes, headers included */

static struct sockaddr_in server;
static uint64_t end_ns;

/* What the client has seen. */
static uint32_t *latencies;         /* us */
static size_t answers, room;
static uint64_t transferred;        /* bytes */
static char failure[200];

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NS + ts.tv_nsec;
}

static bool time_is_up(void)
{
    return now_ns() >= end_ns;
}

/* An answer has come to what was asked, or was due, at @since. */
static void answered(uint64_t since)
{
    uint64_t now = now_ns();

    if (answers == room) {
        room = room ? room * 2 : 4096;
        latencies = realloc(latencies, room * sizeof(*latencies));
        if (!latencies) {
            abort();
        }
    }
    latencies[answers++] = (now - since) / 1000;
}

static bool failed(const char *what)
{
    if (!failure[0]) {
        snprintf(failure, sizeof(failure), "%s: %s after %zu answers", what,
                 errno ? strerror(errno) : "the connection ended", answers);
    }
    return false;
}

static int open_connection(void)
{
    struct timeval limit = { .tv_sec = LIMIT_S };
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    errno = 0;
    if (connect(fd, (struct sockaddr *)&server, sizeof(server))) {
        failed("connect");
        close(fd);
        return -1;
    }
    return fd;
}

static bool send_all(int fd, const void *buf, size_t len)
{
    const char *p = buf;

    while (len) {
        ssize_t n;

        errno = 0;
        n = send(fd, p, len, MSG_NOSIGNAL);
        if (n <= 0) {
            return failed("send");
        }
        p += n;
        len -= n;
    }
    return true;
}

static bool receive_all(int fd, void *buf, size_t len)
{
    char *p = buf;

    while (len) {
        ssize_t n;

        errno = 0;
        n = recv(fd, p, len, 0);
        if (n <= 0) {
            return failed("receive");
        }
        p += n;
        len -= n;
    }
    return true;
}

static bool http_on(int fd)
{
    static const char request[] = "GET /f0 HTTP/1.0\r\n\r\n";
    static const char last[] = "test guest\n";
    char buf[8192];
    size_t len = 0;
    ssize_t n;

    if (!send_all(fd, request, strlen(request))) {
        return false;
    }
    while (errno = 0, (n = recv(fd, buf + len, sizeof(buf) - 1 - len, 0)) > 0) {
        len += n;
    }
    buf[len] = 0;
    if (n < 0) {
        return failed("answer");
    }
    if (len < PAGE_MIN || !strstr(buf, " 200 ") ||
        strcmp(buf + len - strlen(last), last)) {
        return failed("a page that is not whole");
    }
    transferred += len;
    return true;
}

static bool round_trip(int fd, size_t len)
{
    static uint32_t number;
    char sent[ROUND_TRIP] = { 0 }, got[ROUND_TRIP];

    memcpy(sent, &number, sizeof(number));
    number++;
    if (!send_all(fd, sent, len) || !receive_all(fd, got, len)) {
        return false;
    }
    transferred += len;
    return memcmp(sent, got, len) == 0 || failed("wrong echo");
}

static bool ask_time(int fd)
{
    char byte = 0;

    if (!send_all(fd, "time\n", 5)) {
        return false;
    }
    while (byte != '\n') {
        if (!receive_all(fd, &byte, 1)) {
            return false;
        }
    }
    return true;
}

static bool echo_block(int fd)
{
    return round_trip(fd, ROUND_TRIP);
}

static bool one_byte(int fd)
{
    return round_trip(fd, 1);
}

/* One request on a connection of its own. */
static bool request_alone(bool (*request)(int fd))
{
    int fd = open_connection();
    bool good = fd >= 0 && request(fd);

    if (fd >= 0) {
        close(fd);
    }
    return good;
}

/* Wait until request @number is due. Returns when it is, or was, due. */
static uint64_t due(uint64_t start, uint64_t number, double rate)
{
    uint64_t when = start + (number + drand48()) * NS / rate, now = now_ns();

    if (now < when) {
        struct timespec ts = { (when - now) / NS, (when - now) % NS };

        nanosleep(&ts, NULL);
    }
    return when;
}

/* @shared: all of them on one connection. */
static void run_requests(bool (*request)(int fd), bool shared, double rate)
{
    int fd = shared ? open_connection() : -1;
    uint64_t start = now_ns(), since;

    for (uint64_t i = 0; !shared || fd >= 0; i++) {
        since = rate ? due(start, i, rate) : now_ns();
        if (time_is_up() ||
            !(shared ? request(fd) : request_alone(request))) {
            break;
        }
        answered(since);
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void run_download(double mib)
{
    static char buf[BLOCK];
    uint64_t size = mib * MIB, left = 0;
    int fd = open_connection();

    while (fd >= 0 && !time_is_up()) {
        ssize_t n;

        if (!left) {
            snprintf(buf, sizeof(buf), "1 %llu\n", (unsigned long long)size);
            if (!send_all(fd, buf, strlen(buf))) {
                break;
            }
            left = size;
        }
        errno = 0;
        n = recv(fd, buf, sizeof(buf), 0);
        if (n <= 0) {
            failed("download");
            break;
        }
        transferred += n;
        left -= n;
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* Take what acknowledgements there are, one for each MiB; or wait for one. */
static bool take_acknowledged(int fd, bool wait)
{
    char buf[64];
    ssize_t n;

    errno = 0;
    n = recv(fd, buf, sizeof(buf), wait ? 0 : MSG_DONTWAIT);
    if (n == 0 || (n < 0 && (wait || errno != EAGAIN))) {
        return failed("upload");
    }
    transferred += n > 0 ? n * MIB : 0;
    return true;
}

/*
 * Where output waits for a checkpoint a MiB takes long: what the guest's TCP
 * has taken counts as well.
 */
static void count_taken(int fd, uint64_t sent)
{
    int left = 0;

    if (!ioctl(fd, SIOCOUTQ, &left) && transferred < sent - left) {
        transferred = sent - left;
    }
}

static void run_upload(double mib)
{
    static char buf[BLOCK];
    uint64_t size = mib * MIB, sent = 0;
    int fd = open_connection();

    while (fd >= 0 && !time_is_up()) {
        bool whole = sent && sent % size == 0 && transferred < sent;

        if (!take_acknowledged(fd, whole)) {
            break;
        }
        if (!whole) {
            if (!send_all(fd, buf, sizeof(buf))) {
                break;
            }
            sent += sizeof(buf);
        }
    }
    if (fd >= 0) {
        count_taken(fd, sent);
        close(fd);
    }
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static double quantile_ms(double q)
{
    size_t rank = ceil(q * answers);

    return answers ? latencies[rank ? rank - 1 : 0] / 1000.0 : 0;
}

static void print_result(double seconds)
{
    static const double curve[] = { 0, .01, .05, .1, .25, .5, .75, .9, .95,
                                    .99, .995, .999, 1 };

    if (answers) {
        qsort(latencies, answers, sizeof(*latencies), compare);
    }
    printf("{\"seconds\": %.6f, \"answers\": %zu, \"bytes\": %llu, "
           "\"failure\": \"%s\", \"curve\": [", seconds, answers,
           (unsigned long long)transferred, failure);
    for (size_t i = 0; i < sizeof(curve) / sizeof(curve[0]); i++) {
        printf("%s[%g, %.3f]", i ? ", " : "", curve[i],
               quantile_ms(curve[i]));
    }
    printf("]}\n");
}

static void run(const char *kind, double argument)
{
    if (!strcmp(kind, "http")) {
        run_requests(http_on, false, argument);
    } else if (!strcmp(kind, "churn")) {
        run_requests(one_byte, false, argument);
    } else if (!strcmp(kind, "echo")) {
        run_requests(echo_block, true, argument);
    } else if (!strcmp(kind, "time")) {
        run_requests(ask_time, true, argument);
    } else if (!strcmp(kind, "download")) {
        run_download(argument);
    } else if (!strcmp(kind, "upload")) {
        run_upload(argument);
    } else {
        fprintf(stderr, "load: no kind of load is called %s\n", kind);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    uint64_t start;

    if (argc < 5 || !inet_aton(argv[2], &server.sin_addr)) {
        fprintf(stderr, "usage: load KIND IP PORT SECONDS [RATE or MIB]\n");
        return 2;
    }
    server.sin_family = AF_INET;
    server.sin_port = htons(atoi(argv[3]));
    start = now_ns();
    srand48(start);
    end_ns = start + atof(argv[4]) * NS;
    run(argv[1], argc > 5 ? atof(argv[5]) : 0);
    print_result((now_ns() - start) / 1e9);
    return 0;
}
