/*
 * Services of the test guest: records that are on the disk when acknowledged
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "guestd.h"

int record_append(unsigned client, unsigned long long seq,
                  const char *payload)
{
    char record[2048];
    int len = snprintf(record, sizeof(record), "%u %llu %s\n", client, seq,
                       payload);
    int file = open("/data/records", O_WRONLY | O_APPEND | O_CREAT, 0644);
    int error = 0;

    if (file < 0) {
        return errno;
    }
    errno = EIO;
    if (write(file, record, len) != len || fsync(file)) {
        error = errno;
    }
    close(file);
    return error;
}

void serve_record(int fd)
{
    LineReader r = { .fd = fd };
    char line[1024], payload[1024], answer[64];

    while (read_line(&r, line, sizeof(line))) {
        unsigned client;
        unsigned long long seq;
        int error, n;

        if (sscanf(line, "R %u %llu %1023s", &client, &seq, payload) != 3) {
            break;
        }
        error = record_append(client, seq, payload);
        n = error ? snprintf(answer, sizeof(answer), "E %d\n", error)
                  : snprintf(answer, sizeof(answer), "A %llu\n", seq);
        if (!write_all(fd, answer, n)) {
            break;
        }
    }
}
