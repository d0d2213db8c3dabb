/*
 * COLO: the checksum of what goes over the link
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "crc.h"

/* By table, a byte at a time */
static uint32_t crc_generic(uint32_t crc, const uint8_t *p, size_t len)
{
    /* crc32c() inverts its result and takes the length as an int */
    while (len) {
        unsigned int n = MIN(len, 1u << 30);

        crc = crc32c(crc ^ 0xffffffff, p, n);
        p += n;
        len -= n;
    }
    return crc;
}

#if defined(__x86_64__)
#include <nmmintrin.h>

/* By the instruction that SSE4.2 has for this polynomial */
static uint32_t __attribute__((target("sse4.2")))
crc_sse42(uint32_t crc, const uint8_t *p, size_t len)
{
    uint64_t state = crc ^ 0xffffffff;

    for (; len >= sizeof(state); len -= sizeof(state), p += sizeof(state)) {
        state = _mm_crc32_u64(state, ldq_le_p(p));
    }
    for (; len; len--, p++) {
        state = _mm_crc32_u8(state, *p);
    }
    return (uint32_t)state ^ 0xffffffff;
}

bool colo_crc_is_fast(void)
{
    return __builtin_cpu_supports("sse4.2");
}

uint32_t colo_crc(uint32_t crc, const void *buf, size_t len)
{
    return colo_crc_is_fast() ? crc_sse42(crc, buf, len) :
                                crc_generic(crc, buf, len);
}
#else
bool colo_crc_is_fast(void)
{
    return false;
}

uint32_t colo_crc(uint32_t crc, const void *buf, size_t len)
{
    return crc_generic(crc, buf, len);
}
#endif
