/*
 * TCP segments of two guests that say the same, for a comparison to match
 *
 * usage: packets CONNECTIONS BYTES COUNT PRIMARY SECONDARY OUT
 *
 * The last three are numbers of inherited sockets: what the comparison reads
 * from either guest, and what it releases. Frames have the length in front, as
 * QEMU's stream sockets have it. All are in memory before the clock starts; at
 * most WINDOW of them are under way, so that no queue overflows. Prints how
 * many million packets of the primary were released a second.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { HEADERS = 14 + 20 + 20, WINDOW = 512, LIMIT_MS = 10000 };

typedef struct Stream {
    int fd;
    size_t done;                /* bytes */
} Stream;

static uint8_t *frames;
static size_t frame_len, total; /* bytes, lengths in front included */

static void put16(uint8_t *p, uint16_t value)
{
    value = htons(value);
    memcpy(p, &value, sizeof(value));
}

static void put32(uint8_t *p, uint32_t value)
{
    value = htonl(value);
    memcpy(p, &value, sizeof(value));
}

static uint16_t checksum(uint32_t sum, const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        sum += i % 2 ? p[i] : p[i] << 8;
    }
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return ~sum;
}

static void make_frame(uint8_t *frame, size_t len, unsigned conn, uint32_t seq)
{
    uint8_t *ip = frame + 14, *tcp = ip + 20;
    size_t tcp_len = len - 34;

    frame[12] = 8;
    ip[0] = 0x45;
    put16(ip + 2, len - 14);
    ip[8] = 64;
    ip[9] = 6;
    put32(ip + 12, 0x0a000001);
    put32(ip + 16, 0x0b000000 + conn);
    put16(ip + 10, checksum(0, ip, 20));
    put16(tcp, 80);
    put16(tcp + 2, 1024);
    put32(tcp + 4, seq);
    put32(tcp + 8, 1);
    tcp[12] = 0x50;
    tcp[13] = 0x10;
    put16(tcp + 14, 0xffff);
    /* the pseudo header: addresses, protocol, length */
    put16(tcp + 16, checksum(6 + tcp_len + (uint16_t)~checksum(0, ip + 12, 8),
                             tcp, tcp_len));
}

static void make_frames(unsigned conns, size_t len, size_t count)
{
    frame_len = 4 + len;
    total = frame_len * count;
    frames = calloc(count, frame_len);
    if (!frames) {
        perror("packets");
        exit(1);
    }
    for (size_t i = 0; i < count; i++) {
        uint8_t *frame = frames + i * frame_len;

        put32(frame, len);
        make_frame(frame + 4, len, i % conns, i / conns * (len - HEADERS));
    }
}

static void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void send_more(Stream *s, size_t end)
{
    ssize_t n = write(s->fd, frames + s->done, end - s->done);

    if (n < 0 && errno != EAGAIN) {
        fail("the comparison closed its input");
    }
    s->done += n > 0 ? n : 0;
}

static void receive_more(Stream *out)
{
    static uint8_t buf[1 << 18];
    ssize_t n = read(out->fd, buf, sizeof(buf));

    if (n == 0) {
        fail("the comparison closed its output");
    }
    out->done += n > 0 ? n : 0;
}

/*
 * Send and receive until all was released. More is sent once half a window
 * was, and then all of it: who sends as much as was released, packet by
 * packet, measures how often the comparison can be woken up.
 */
static void pump(Stream *primary, Stream *secondary, Stream *out)
{
    size_t end = 0;

    while (out->done < total) {
        struct pollfd fds[3];

        if (end <= out->done + WINDOW / 2 * frame_len) {
            end = (out->done / frame_len + WINDOW) * frame_len;
            end = end < total ? end : total;
        }
        fds[0] = (struct pollfd) { primary->fd,
                                   primary->done < end ? POLLOUT : 0, 0 };
        fds[1] = (struct pollfd) { secondary->fd,
                                   secondary->done < end ? POLLOUT : 0, 0 };
        fds[2] = (struct pollfd) { out->fd, POLLIN, 0 };
        if (poll(fds, 3, LIMIT_MS) <= 0) {
            fprintf(stderr, "nothing more is released after %zu of %zu "
                    "packets\n", out->done / frame_len, total / frame_len);
            exit(1);
        }
        if (fds[0].revents & (POLLOUT | POLLHUP | POLLERR)) {
            send_more(primary, end);
        }
        if (fds[1].revents & (POLLOUT | POLLHUP | POLLERR)) {
            send_more(secondary, end);
        }
        if (fds[2].revents) {
            receive_more(out);
        }
    }
}

int main(int argc, char **argv)
{
    Stream s[3] = { { 0 } };
    struct timespec start, end;

    if (argc != 7) {
        fail("usage: packets CONNECTIONS BYTES COUNT PRIMARY SECONDARY OUT");
    }
    make_frames(atoi(argv[1]), atoi(argv[2]), atoi(argv[3]));
    for (int i = 0; i < 3; i++) {
        s[i].fd = atoi(argv[4 + i]);
        fcntl(s[i].fd, F_SETFL, O_NONBLOCK);
    }
    clock_gettime(CLOCK_MONOTONIC, &start);
    pump(&s[0], &s[1], &s[2]);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.6f\n", total / frame_len / 1e6 /
           (end.tv_sec - start.tv_sec + (end.tv_nsec - start.tv_nsec) / 1e9));
    return 0;
}
