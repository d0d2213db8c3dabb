/*
 * QTest testcases for devices under COLO
 *
 * What a device writes to memory by itself, and not by a guest's write or a
 * DMA that ends, is on the secondary after a checkpoint as well. Two QEMUs
 * without a guest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "colo-pair.h"
#include "qemu/bswap.h"
#include "qemu/units.h"

#define FLASH_SIZE (4 * MiB)
#define FLASH (4 * GiB - FLASH_SIZE)
#define FLASH_PROGRAM 0x40
#define FLASH_READ 0xff

/* ICH9's AHCI, Serial ATA AHCI 1.3.1 */
#define AHCI_BAR 0xe0000000u
#define AHCI_GHC (AHCI_BAR + 0x04)
#define AHCI_GHC_AE (1u << 31)
#define AHCI_PORT (AHCI_BAR + 0x100)
#define PORT_CLB (AHCI_PORT + 0x00)
#define PORT_FB (AHCI_PORT + 0x08)
#define PORT_CMD (AHCI_PORT + 0x18)
#define PORT_CMD_ST 0x01
#define PORT_CMD_FRE 0x10
#define PORT_CI (AHCI_PORT + 0x38)
#define FIS_D2H 0x34
#define FIS_H2D 0x27
#define FIS_H2D_COMMAND 0x80
#define ATA_IDENTIFY_PACKET 0xa1
#define FIS_BYTES 256
#define RECEIVED_D2H 0x40       /* what is sent when a port starts */

/* In guest memory, each in a page of its own */
#define COMMANDS 0x100000
#define RECEIVED 0x101000
#define TABLE 0x102000
#define DATA 0x103000

typedef struct Pair {
    char *dir;
    QTestState *p, *s;
} Pair;

static void pair_start(Pair *pair, const char *primary, const char *secondary)
{
    g_autofree char *socket = NULL;

    pair->dir = g_dir_make_tmp("colo-device-XXXXXX", NULL);
    g_assert_nonnull(pair->dir);
    socket = g_build_filename(pair->dir, "migrate", NULL);
    pair->p = qtest_initf("-nodefaults -m 16 %s", primary);
    pair->s = qtest_initf("-nodefaults -m 16 %s -incoming unix:%s", secondary,
                          socket);
    colo_protect(pair->p, pair->s, socket);
}

static void pair_end(Pair *pair)
{
    g_autofree char *socket = g_build_filename(pair->dir, "migrate", NULL);

    qtest_quit(pair->p);
    qtest_qmp_eventwait(pair->s, "COLO_EXIT");
    qtest_quit(pair->s);
    unlink(socket);
    g_assert_cmpint(rmdir(pair->dir), ==, 0);
    g_free(pair->dir);
}

static void program_flash(QTestState *qts, uint64_t at, uint8_t value)
{
    qtest_writeb(qts, at, FLASH_PROGRAM);
    qtest_writeb(qts, at, value);
    qtest_writeb(qts, at, FLASH_READ);
    g_assert_cmphex(qtest_readb(qts, at), ==, value);
}

static void test_flash(void)
{
    /* the secondary's flash needs no disk of its own to receive content */
    g_autofree char *machine = g_strdup_printf(
        "-machine pc,pflash0=flash0 -blockdev driver=null-co,size=%" PRIu64
        ",read-zeroes=on,node-name=", (uint64_t)FLASH_SIZE);
    g_autofree char *primary = g_strdup_printf(
        "%1$sown0 %2$speer0 -blockdev driver=replication,mode=primary,"
        "file=peer0,node-name=repl0 -blockdev driver=quorum,"
        "vote-threshold=1,read-pattern=fifo,children.0=own0,children.1=repl0,"
        "node-name=flash0", machine, strstr(machine, "-blockdev"));
    g_autofree char *secondary = g_strdup_printf("%sflash0,read-only=on",
                                                 machine);
    Pair pair = {};

    pair_start(&pair, primary, secondary);
    for (int i = 1; i < 3; i++) {
        program_flash(pair.p, FLASH + i * 0x10000, i);
        colo_checkpoint(pair.p);
        g_assert_cmphex(qtest_readb(pair.s, FLASH + i * 0x10000), ==, i);
    }
    pair_end(&pair);
}

static void pci_write(QTestState *qts, unsigned reg, uint32_t value)
{
    qtest_outl(qts, 0xcf8, 0x80000000 | 0x1f << 11 | 2 << 8 | reg);
    qtest_outl(qts, 0xcfc, value);
}

static void ahci_start(QTestState *qts)
{
    pci_write(qts, 0x24, AHCI_BAR);
    pci_write(qts, 0x04, 0x06);
    qtest_writel(qts, AHCI_GHC, AHCI_GHC_AE);
    qtest_writel(qts, PORT_CLB, COMMANDS);
    qtest_writel(qts, PORT_FB, RECEIVED);
    qtest_writel(qts, PORT_CMD, PORT_CMD_FRE);
    qtest_writel(qts, PORT_CMD, PORT_CMD_FRE | PORT_CMD_ST);
}

/* One command, which needs no medium: an answer of 512 bytes */
static void ahci_identify(QTestState *qts)
{
    static const uint8_t fis[] = {
        FIS_H2D, FIS_H2D_COMMAND, ATA_IDENTIFY_PACKET
    };
    uint32_t header[] = { cpu_to_le32(1 << 16 | 5), 0, cpu_to_le32(TABLE), 0 };
    uint32_t range[] = { cpu_to_le32(DATA), 0, 0, cpu_to_le32(511) };

    qtest_memwrite(qts, COMMANDS, header, sizeof(header));
    qtest_memwrite(qts, TABLE, fis, sizeof(fis));
    qtest_memwrite(qts, TABLE + 0x80, range, sizeof(range));
    qtest_writel(qts, PORT_CI, 1);
    while (qtest_readl(qts, PORT_CI) & 1) {
        continue;
    }
}

/* What a port receives lies in memory that stays mapped. */
static void test_ahci(void)
{
    static const char *const machine = "-machine q35 -device ide-cd,bus=ide.0";
    uint8_t before[FIS_BYTES], primary[FIS_BYTES], secondary[FIS_BYTES];
    Pair pair = {};

    pair_start(&pair, machine, machine);
    ahci_start(pair.p);
    colo_checkpoint(pair.p);
    qtest_memread(pair.p, RECEIVED, before, sizeof(before));
    qtest_memread(pair.s, RECEIVED, secondary, sizeof(secondary));
    g_assert_cmpmem(before, sizeof(before), secondary, sizeof(secondary));
    g_assert_cmphex(before[RECEIVED_D2H], ==, FIS_D2H);
    ahci_identify(pair.p);
    qtest_memread(pair.p, RECEIVED, primary, sizeof(primary));
    g_assert_cmpint(memcmp(primary, before, sizeof(before)), !=, 0);
    colo_checkpoint(pair.p);
    qtest_memread(pair.s, RECEIVED, secondary, sizeof(secondary));
    g_assert_cmpmem(primary, sizeof(primary), secondary, sizeof(secondary));
    pair_end(&pair);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/colo-device/flash", test_flash);
    qtest_add_func("/colo-device/ahci", test_ahci);
    return g_test_run();
}
