/*
 * COLO: the SVM's disk requests that wait to be repeated
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/ide/ide-bus.h"
#include "hw/pci/pci_device.h"
#include "hw/qdev-core.h"
#include "system/block-backend.h"
#include "trace.h"
#include "waiting.h"

/* What has to be reset for @dev to forget its requests. */
static DeviceState *controller_of(DeviceState *dev)
{
    while (!object_dynamic_cast(OBJECT(dev), TYPE_PCI_DEVICE)) {
        BusState *bus = qdev_get_parent_bus(dev);

        if (!bus || !bus->parent) {
            break;
        }
        dev = bus->parent;
    }
    return dev;
}

static void forget_requests(DeviceState *controller)
{
    BusState *bus;

    trace_colo_forget_requests(object_get_typename(OBJECT(controller)));
    device_cold_reset(controller);
    /* a reset leaves alone what an IDE bus is to do when the VM runs again */
    QLIST_FOREACH(bus, &controller->child_bus, sibling) {
        IDEBus *ide = (IDEBus *)object_dynamic_cast(OBJECT(bus), TYPE_IDE_BUS);

        if (ide) {
            ide->error_status = 0;
        }
    }
}

static bool any_failed(void)
{
    BlockBackend *blk = NULL;

    while ((blk = blk_all_next(blk))) {
        if (blk_iostatus_is_enabled(blk) &&
            blk_iostatus(blk) != BLOCK_DEVICE_IO_STATUS_OK) {
            return true;
        }
    }
    return false;
}

void colo_forget_waiting_requests(bool stood)
{
    g_autoptr(GHashTable) done = g_hash_table_new(NULL, NULL);
    BlockBackend *blk = NULL;

    if (!stood && !any_failed()) {
        return;
    }
    while ((blk = blk_all_next(blk))) {
        DeviceState *dev = blk_get_attached_dev(blk);

        /* only devices with a policy that stops the VM have such requests */
        if (!dev || !blk_iostatus_is_enabled(blk)) {
            continue;
        }
        dev = controller_of(dev);
        if (g_hash_table_add(done, dev)) {
            forget_requests(dev);
        }
        blk_iostatus_reset(blk);
    }
}
