/*
 * COLO: the checksum of what goes over the link
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_CRC_H
#define MIGRATION_COLO_CRC_H

/*
 * CRC-32C (RFC 3720, B.4) of @len bytes at @buf, continued from @crc, the
 * checksum of what comes before it (0 if nothing does). Any thread.
 */
uint32_t colo_crc(uint32_t crc, const void *buf, size_t len);

/*
 * Does this host's CPU have an instruction for colo_crc()? Without one it
 * takes some 3 ns a byte: too much for all the memory of a checkpoint, which
 * is sent while the VM stands still. Any thread.
 */
bool colo_crc_is_fast(void);

#endif
