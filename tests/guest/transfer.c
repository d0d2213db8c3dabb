/*
 * Services of the test guest: echo, upload, download, a sink and a page
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "guestd.h"

enum { BLOCK = 65536 };

static uint32_t crc_table[4][256];

static void __attribute__((constructor)) crc_init(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uint32_t c = i;

        for (int k = 0; k < 8; k++) {
            c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
        }
        crc_table[0][i] = c;
    }
    for (unsigned i = 0; i < 256; i++) {
        for (int t = 1; t < 4; t++) {
            uint32_t c = crc_table[t - 1][i];

            crc_table[t][i] = crc_table[0][c & 0xff] ^ (c >> 8);
        }
    }
}

uint32_t crc32_update(uint32_t crc, const void *buf, size_t len)
{
    const uint8_t *p = buf;

    crc = ~crc;
    for (; len >= 4; len -= 4, p += 4) {
        uint32_t w;

        memcpy(&w, p, 4);
        crc ^= w;
        crc = crc_table[3][crc & 0xff] ^ crc_table[2][(crc >> 8) & 0xff] ^
              crc_table[1][(crc >> 16) & 0xff] ^ crc_table[0][crc >> 24];
    }
    for (; len; len--, p++) {
        crc = crc_table[0][(crc ^ *p) & 0xff] ^ (crc >> 8);
    }
    return ~crc;
}

void serve_echo(int fd)
{
    char buf[16384];
    ssize_t n;

    while ((n = read(fd, buf, sizeof(buf))) > 0) {
        if (!write_all(fd, buf, n)) {
            break;
        }
    }
}

void serve_upload(int fd)
{
    char *buf = malloc(BLOCK);
    uint8_t head[8];
    char answer[64];

    while (read_all(fd, head, sizeof(head))) {
        uint64_t left = 0, len;
        uint32_t crc = 0;

        for (int i = 0; i < 8; i++) {
            left = left << 8 | head[i];
        }
        len = left;
        while (left) {
            ssize_t n = read(fd, buf, left < BLOCK ? left : BLOCK);

            if (n <= 0) {
                goto out;
            }
            crc = crc32_update(crc, buf, n);
            left -= n;
        }
        if (!write_all(fd, answer, snprintf(answer, sizeof(answer),
                                            "%llu %08x\n",
                                            (unsigned long long)len, crc))) {
            break;
        }
    }
out:
    free(buf);
}

/*
 * Stream @seed: a block of pseudo-random words again and again, each time
 * with the offset in the place of its first word.
 */
static bool send_stream(int fd, uint64_t seed, uint64_t len)
{
    uint64_t *block = malloc(BLOCK);
    uint64_t off;
    bool ok = true;

    for (size_t i = 0; i < BLOCK / 8; i++) {
        block[i] = splitmix64(&seed);
    }
    for (off = 0; ok && off < len; off += BLOCK) {
        block[0] = off;
        ok = write_all(fd, block, len - off < BLOCK ? len - off : BLOCK);
    }
    free(block);
    return ok;
}

void serve_download(int fd)
{
    LineReader r = { .fd = fd };
    char line[128];
    unsigned long long seed, len;

    while (read_line(&r, line, sizeof(line))) {
        if (sscanf(line, "%llu %llu", &seed, &len) != 2 ||
            !send_stream(fd, seed, len)) {
            break;
        }
    }
}

void serve_sink(int fd)
{
    char *buf = malloc(BLOCK);
    uint64_t got = 0;
    ssize_t n;

    while ((n = read(fd, buf, BLOCK)) > 0) {
        uint64_t before = got >> 20;

        got += n;
        if (!write_all(fd, "....", (got >> 20) - before)) {
            break;
        }
    }
    free(buf);
}

void serve_page(int fd)
{
    static const char page[] = "HTTP/1.0 200 OK\r\n"
                               "Content-Type: text/plain\r\n\r\n"
                               "a page of the test guest\n";
    LineReader r = { .fd = fd };
    char line[256];

    while (read_line(&r, line, sizeof(line))) {
        if (line[0] == '\r') {
            write_all(fd, page, sizeof(page) - 1);
            break;
        }
    }
}
