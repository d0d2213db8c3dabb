/*
 * Services of the test guest: what the files of guestd share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef COLO_GUESTD_H
#define COLO_GUESTD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    PORT_CONTROL = 7000,
    PORT_RECORD = 7001,
    PORT_ECHO = 7002,
    PORT_UPLOAD = 7003,
    PORT_DOWNLOAD = 7004,
    PORT_UDP = 7005,
    PORT_SINK = 7006,
    PORT_PAGE = 7007,
};

/* A thread per connection: @fd is closed when the function returns. */
typedef void ServeFunc(int fd);

/* Lines of a stream. @fd is not owned. */
typedef struct LineReader {
    int fd;
    size_t len;
    char buf[4096];
} LineReader;

/*
 * Next line of @r without its newline, into @line of @size bytes. False at
 * the end of the stream, on an error and on a line that does not fit.
 */
bool read_line(LineReader *r, char *line, size_t size);

/* Write all @len bytes. False on an error. */
bool write_all(int fd, const void *buf, size_t len);

/* Read exactly @len bytes. False on an error or a shorter stream. */
bool read_all(int fd, void *buf, size_t len);

/* Listen on TCP @port and serve each connection in a thread. Never returns. */
void serve_tcp(int port, ServeFunc *serve);

/* Run @fn in a detached thread; ends the program when there is none left. */
void spawn(void *(*fn)(void *), void *arg);

/* Nanoseconds of @clock (CLOCK_MONOTONIC, ...). */
uint64_t clock_ns(int clock);

/* The next of a series of pseudo-random numbers. */
uint64_t splitmix64(uint64_t *state);

/* CRC-32 as in zlib, of @len bytes, continued from @crc (0 at the start). */
uint32_t crc32_update(uint32_t crc, const void *buf, size_t len);

/*
 * Append numbered records to /data/records: "R client seq payload" is answered
 * with "A seq" when the record is on the disk, with "E errno" if it is not.
 */
ServeFunc serve_record;

/*
 * Append a record that is on the disk when this returns. Returns 0 or an
 * errno.
 */
int record_append(unsigned client, unsigned long long seq,
                  const char *payload);

/* Send back what comes. */
ServeFunc serve_echo;

/*
 * Upload: 8 bytes of length, big endian, and as many bytes of data are
 * answered with "length crc32\n".
 */
ServeFunc serve_upload;

/* Download: "seed length\n" is answered with that much of stream @seed. */
ServeFunc serve_download;

/* Take what comes; each MiB is answered with one byte. */
ServeFunc serve_sink;

/* Answer one GET, of anything, with a small page that never changes. */
ServeFunc serve_page;

/* Commands, one a line; see control.c. */
ServeFunc serve_control;

/*
 * Answer "U client seq" with "V client seq times total": how often this
 * request was executed and how many were in all. Never returns.
 */
void serve_udp(void);

/*
 * How often requests 1 to @n of @client were executed, a digit each, into
 * @buf, of @n + 1 bytes at least.
 */
void udp_counts(unsigned client, unsigned n, char *buf);

enum { UDP_CLIENTS = 64, UDP_REQUESTS = 65536 };

/*
 * Start or change the memory load: @mib of memory rewritten at @rate MiB a
 * second (0 stops it) with pages of @kind: "random", "text" or "word" (two
 * words of each page). Returns NULL or what is wrong.
 */
const char *dirty_set(unsigned mib, unsigned rate, const char *kind);

/* Pages written, and pages found with the wrong content before a rewrite. */
void dirty_stat(uint64_t *pages, uint64_t *bad);

/*
 * Start or change a load for measurements: runs of @run pages at random places
 * of @mib of memory written at @rate MiB a second; 0 stops it, and what the
 * vCPU can't do is not caught up with. The memory is there in full when this
 * returns; @mib can't change afterwards. Returns NULL or what is wrong.
 */
const char *scatter_set(unsigned mib, unsigned rate, unsigned run);

/* Pages written by it. */
uint64_t scatter_stat(void);

/*
 * Start or change a disk load: "seq" (1 MiB each), "seq4k", "rand4k",
 * "sync4k", "randsync4k" (each write on the disk before the next) or "off".
 * Returns NULL or what is wrong.
 */
const char *writes_set(const char *name);

/* Writes since the last writes_set(); @error is the errno that ended them. */
uint64_t writes_stat(int *error);

/*
 * What the disk, not the page cache, has in the second 4 KiB of the load's file:
 * 1 once "seq4k" has come there. @error is an errno or 0.
 */
uint64_t writes_second(int *error);

/* Run one command line into @reply. */
void control_command(const char *line, char *reply, size_t size);

#endif
