/*
 * Services of the test guest: UDP requests that must not be executed twice
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include "guestd.h"

static uint8_t executed[UDP_CLIENTS][UDP_REQUESTS];

void serve_udp(void)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_port = htons(PORT_UDP),
    };
    unsigned long long total = 0;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr))) {
        perror("guestd: udp");
        exit(1);
    }
    for (;;) {
        struct sockaddr_in from;
        socklen_t fromlen = sizeof(from);
        char buf[256];
        unsigned client, seq, times;
        ssize_t n = recvfrom(fd, buf, sizeof(buf) - 1, 0,
                             (struct sockaddr *)&from, &fromlen);

        if (n < 0) {
            continue;
        }
        buf[n] = 0;
        if (sscanf(buf, "U %u %u", &client, &seq) != 2 ||
            client >= UDP_CLIENTS || seq >= UDP_REQUESTS) {
            continue;
        }
        times = ++executed[client][seq];
        n = snprintf(buf, sizeof(buf), "V %u %u %u %llu", client, seq, times,
                     ++total);
        sendto(fd, buf, n, 0, (struct sockaddr *)&from, fromlen);
    }
}

void udp_counts(unsigned client, unsigned n, char *buf)
{
    unsigned i;

    for (i = 0; client < UDP_CLIENTS && i < n && i + 1 < UDP_REQUESTS; i++) {
        uint8_t c = executed[client][i + 1];

        buf[i] = '0' + (c > 9 ? 9 : c);
    }
    buf[i] = 0;
}
