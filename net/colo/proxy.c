/*
 * COLO proxy: what the checkpoint engine asks of the network
 *
 * Passes the engine's events on to the filters of each netdev and to the
 * comparisons, and puts a hold on every netdev that a NIC uses.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "net/colo-proxy.h"
#include "net/vhost_net.h"
#include "net/colo/compare-object.h"
#include "net/colo/frame.h"
#include "net/colo/hold.h"
#include "net/colo/proxy.h"
#include "net/colo/rewriter.h"
#include "system/runstate.h"
#include "trace.h"

#define STATE_VERSION 1

/* Netdevs in the translation tables of one checkpoint. */
#define STATE_MAX_NETDEVS 256

/* BQL protects all of it. */
static struct {
    ColoProxyStatus status;
    /* primary that the peer has replaced */
    bool fenced;
    VMChangeStateEntry *vmstate;
} proxy;

struct ColoProxyState {
    /* netdev name (owned) to ColoRewriteTable (owned, NULL once in force) */
    GHashTable *tables;
};

const ColoProxyStatus *colo_proxy_status(void)
{
    return &proxy.status;
}

/* The peer of @nic that its guest's output goes to; NULL if there is none. */
static NetClientState *nic_netdev(NICState *nic)
{
    return nic->peer_deleted ? NULL : qemu_get_queue(nic)->peer;
}

static void check_nic(NICState *nic, void *opaque)
{
    Error **errp = opaque;
    NetClientState *nc = nic_netdev(nic);
    NetClientDriver type;

    if (!nc || *errp) {
        return;
    }
    type = nc->info->type;
    if (nic->conf->peers.queues > 1) {
        error_setg(errp, "netdev '%s' has %d queues, which COLO can't protect",
                   nc->name, nic->conf->peers.queues);
        error_append_hint(errp, "Give it queues=1.\n");
    } else if (get_vhost_net(nc) || type == NET_CLIENT_DRIVER_VHOST_USER ||
               type == NET_CLIENT_DRIVER_VHOST_VDPA) {
        error_setg(errp, "netdev '%s' uses vhost, so its packets don't pass "
                   "QEMU and COLO can't protect it", nc->name);
        error_append_hint(errp, "Use a tap with vhost=off.\n");
    }
}

static bool check_nics(Error **errp)
{
    Error *err = NULL;

    qemu_foreach_nic(check_nic, &err);
    if (err) {
        error_propagate(errp, err);
        return false;
    }
    return true;
}

typedef struct HoldCall {
    void (*func)(ColoHold *hold, uint64_t arg);
    uint64_t arg;
} HoldCall;

static void call_hold(NICState *nic, void *opaque)
{
    HoldCall *call = opaque;
    NetClientState *nc = nic_netdev(nic);
    ColoHold *hold = nc ? colo_hold_find(nc) : NULL;

    if (hold) {
        call->func(hold, call->arg);
    }
}

static void foreach_hold(void (*func)(ColoHold *hold, uint64_t arg),
                         uint64_t arg)
{
    HoldCall call = { .func = func, .arg = arg };

    qemu_foreach_nic(call_hold, &call);
}

static void hold_remove(ColoHold *hold, uint64_t unused)
{
    colo_hold_remove(hold);
}

static void hold_flush(ColoHold *hold, uint64_t unused)
{
    colo_hold_flush(hold);
}

static void hold_mode(ColoHold *hold, uint64_t mode)
{
    colo_hold_set_mode(hold, mode);
}

static void hold_drop(ColoHold *hold, uint64_t unused)
{
    colo_hold_drop_all(hold);
}

static void hold_release_all(ColoHold *hold, uint64_t unused)
{
    colo_hold_release_all(hold);
}

static void add_hold(NICState *nic, void *opaque)
{
    NetClientState *nc = nic_netdev(nic);

    if (nc) {
        colo_hold_add(nc, *(ColoHoldMode *)opaque);
    }
}

typedef void FilterFunc(NetFilterState *nf, uint64_t arg);

static void foreach_filter(const char *type, FilterFunc *func, uint64_t arg)
{
    NetClientState *nc;
    NetFilterState *nf;

    QTAILQ_FOREACH(nc, &net_clients, next) {
        QTAILQ_FOREACH(nf, &nc->filters, next) {
            if (object_dynamic_cast(OBJECT(nf), type)) {
                func(nf, arg);
            }
        }
    }
}

static void redirector_start(NetFilterState *nf, uint64_t role)
{
    colo_redirector_start(nf, role);
}

static void redirector_stop(NetFilterState *nf, uint64_t off)
{
    colo_redirector_stop(nf);
    if (off) {
        object_property_set_str(OBJECT(nf), "status", "off", &error_abort);
    }
}

static void rewriter_mode(NetFilterState *nf, uint64_t mode)
{
    colo_rewrite_set_mode(FILTER_REWRITER(nf)->core, mode);
    colo_repair_reset(FILTER_REWRITER(nf)->repair);
}

static void vm_state_changed(void *opaque, bool running, RunState state)
{
    if (running) {
        foreach_hold(hold_flush, 0);
    }
}

/* From now on nothing passes but by the holds. */
static void begin(ColoProxyRole role, ColoHoldMode mode)
{
    foreach_hold(hold_remove, 0);
    proxy.status = (ColoProxyStatus) { .role = role };
    proxy.fenced = false;
    if (!proxy.vmstate) {
        proxy.vmstate = qemu_add_vm_change_state_handler(vm_state_changed,
                                                         NULL);
    }
    qemu_foreach_nic(add_hold, &mode);
    foreach_filter(TYPE_FILTER_REDIRECTOR, redirector_start, role);
}

/* The network works as without COLO. */
static void end(void)
{
    proxy.status = (ColoProxyStatus) { .role = COLO_PROXY_OFF };
    foreach_hold(hold_remove, 0);
    if (proxy.vmstate) {
        qemu_del_vm_change_state_handler(proxy.vmstate);
        proxy.vmstate = NULL;
    }
}

void colo_proxy_release_begin(NetClientState *nc)
{
    ColoHold *hold = colo_hold_find(nc);

    if (hold) {
        colo_hold_set_released(hold, true);
    }
}

void colo_proxy_release_end(NetClientState *nc)
{
    ColoHold *hold = colo_hold_find(nc);

    if (hold) {
        colo_hold_set_released(hold, false);
    }
}

typedef struct AttachCall {
    const char *netdev;
    bool attached;
} AttachCall;

static void attach_redirector(NetFilterState *nf, uint64_t opaque)
{
    AttachCall *call = (AttachCall *)(uintptr_t)opaque;

    if (!strcmp(nf->netdev->name, call->netdev)) {
        colo_redirector_attach(nf, call->attached);
    }
}

void colo_proxy_attach(const char *netdev, bool attached)
{
    AttachCall call = { .netdev = netdev, .attached = attached };

    if (!attached || proxy.status.role == COLO_PROXY_PRIMARY) {
        foreach_filter(TYPE_FILTER_REDIRECTOR, attach_redirector,
                       (uintptr_t)&call);
    }
}

bool colo_proxy_start_primary(Error **errp)
{
    if (!check_nics(errp)) {
        return false;
    }
    trace_colo_proxy_start("primary");
    begin(COLO_PROXY_PRIMARY, COLO_HOLD_KEEP);
    foreach_filter(TYPE_FILTER_REWRITER, rewriter_mode, COLO_REWRITE_WIRE);
    colo_compare_all_start();
    return true;
}

void colo_proxy_capture(uint64_t epoch)
{
    trace_colo_proxy_capture(epoch);
    proxy.status.has_epoch = true;
    proxy.status.epoch = epoch;
    foreach_filter(TYPE_FILTER_MIRROR, colo_mirror_capture, epoch);
    foreach_filter(TYPE_FILTER_REDIRECTOR, colo_redirector_capture, epoch);
    foreach_hold(colo_hold_capture, epoch);
    colo_compare_all_capture(epoch);
}

void colo_proxy_committed(uint64_t epoch)
{
    trace_colo_proxy_committed(epoch);
    colo_compare_all_commit(epoch);
    foreach_hold(colo_hold_commit, epoch);
}

static void find_hold(NICState *nic, void *opaque)
{
    NetClientState *nc = nic_netdev(nic);

    *(bool *)opaque |= nc && colo_hold_find(nc);
}

bool colo_proxy_only_holds(void)
{
    bool found = false;

    qemu_foreach_nic(find_hold, &found);
    return found && !colo_compare_any();
}

void colo_proxy_peer_lost(void)
{
    if (proxy.status.role != COLO_PROXY_PRIMARY || proxy.fenced) {
        return;
    }
    trace_colo_proxy_peer_lost();
    proxy.status.peer_lost = true;
    colo_compare_all_lost();
    foreach_hold(hold_mode, COLO_HOLD_LOST);
}

void colo_proxy_stop_primary(bool survivor)
{
    if (proxy.status.role != COLO_PROXY_PRIMARY) {
        return;
    }
    trace_colo_proxy_stop("primary", survivor);
    foreach_filter(TYPE_FILTER_REDIRECTOR, redirector_stop, false);
    if (!survivor) {
        proxy.fenced = true;
        /* nobody is interested in our input any more */
        proxy.status.peer_lost = true;
        foreach_hold(hold_mode, COLO_HOLD_FENCED);
        foreach_hold(hold_drop, 0);
        colo_compare_all_stop(false);
        return;
    }
    foreach_hold(hold_release_all, 0);
    end();
    colo_compare_all_stop(true);
}

/* The rewriter of netdev @nc that counts: the first. */
static FilterRewriter *find_rewriter(NetClientState *nc)
{
    NetFilterState *nf;

    QTAILQ_FOREACH(nf, &nc->filters, next) {
        if (object_dynamic_cast(OBJECT(nf), TYPE_FILTER_REWRITER)) {
            return FILTER_REWRITER(nf);
        }
    }
    return NULL;
}

static void warn_if_bare(NICState *nic, void *opaque)
{
    NetClientState *nc = nic_netdev(nic);

    if (nc && !find_rewriter(nc)) {
        warn_report("netdev '%s' has no filter-rewriter: TCP connections "
                    "that are opened between two checkpoints will not "
                    "survive a failover to this side", nc->name);
    }
}

bool colo_proxy_start_secondary(Error **errp)
{
    if (!check_nics(errp)) {
        return false;
    }
    trace_colo_proxy_start("secondary");
    begin(COLO_PROXY_SECONDARY, COLO_HOLD_CUT);
    foreach_filter(TYPE_FILTER_REWRITER, rewriter_mode, COLO_REWRITE_LEARN);
    qemu_foreach_nic(warn_if_bare, NULL);
    return true;
}

static void put_be16(GByteArray *out, uint16_t value)
{
    uint8_t buf[2];

    stw_be_p(buf, value);
    g_byte_array_append(out, buf, sizeof(buf));
}

static void put_be32(GByteArray *out, uint32_t value)
{
    uint8_t buf[4];

    stl_be_p(buf, value);
    g_byte_array_append(out, buf, sizeof(buf));
}

static void save_rewriter(GByteArray *out, FilterRewriter *rewriter)
{
    g_autoptr(GByteArray) table = g_byte_array_new();
    char name[COLO_MARKER_MAX_NETDEV + 1];

    g_strlcpy(name, NETFILTER(rewriter)->netdev->name, sizeof(name));
    colo_rewrite_save(rewriter->core, table);
    put_be16(out, strlen(name));
    g_byte_array_append(out, (uint8_t *)name, strlen(name));
    put_be32(out, table->len);
    g_byte_array_append(out, table->data, table->len);
}

/*
 * be16 version, be16 number of netdevs; for each: be16 length of its name,
 * the name, be32 length of its table, the table (see rewrite.h).
 */
void colo_proxy_save(GByteArray *out)
{
    size_t count_at = out->len + 2;
    uint16_t count = 0;
    NetClientState *nc;

    put_be16(out, STATE_VERSION);
    put_be16(out, 0);
    QTAILQ_FOREACH(nc, &net_clients, next) {
        FilterRewriter *rewriter = find_rewriter(nc);

        if (rewriter && count < STATE_MAX_NETDEVS) {
            save_rewriter(out, rewriter);
            count++;
        }
    }
    stw_be_p(out->data + count_at, count);
}

typedef struct Reader {
    const uint8_t *buf;
    size_t len;
} Reader;

/* The next @len bytes of @r; NULL with @errp set if there are fewer. */
static const uint8_t *get_bytes(Reader *r, size_t len, Error **errp)
{
    const uint8_t *buf = r->buf;

    if (len > r->len) {
        error_setg(errp, "network state is truncated: %zu bytes left where "
                   "%zu are needed", r->len, len);
        return NULL;
    }
    r->buf += len;
    r->len -= len;
    return buf;
}

static bool get_be16(Reader *r, uint16_t *value, Error **errp)
{
    const uint8_t *buf = get_bytes(r, 2, errp);

    if (buf) {
        *value = lduw_be_p(buf);
    }
    return buf;
}

static bool get_be32(Reader *r, uint32_t *value, Error **errp)
{
    const uint8_t *buf = get_bytes(r, 4, errp);

    if (buf) {
        *value = ldl_be_p(buf);
    }
    return buf;
}

static char *get_name(Reader *r, Error **errp)
{
    const uint8_t *buf;
    uint16_t len;

    if (!get_be16(r, &len, errp)) {
        return NULL;
    }
    buf = get_bytes(r, len, errp);
    if (!buf) {
        return NULL;
    }
    if (len == 0 || len > COLO_MARKER_MAX_NETDEV || memchr(buf, 0, len)) {
        error_setg(errp, "network state with a malformed netdev name");
        return NULL;
    }
    return g_strndup((const char *)buf, len);
}

static bool load_netdev(ColoProxyState *state, Reader *r, Error **errp)
{
    ERRP_GUARD();
    g_autofree char *name = get_name(r, errp);
    ColoRewriteTable *table;
    const uint8_t *buf;
    uint32_t len;

    if (!name || !get_be32(r, &len, errp)) {
        return false;
    }
    buf = get_bytes(r, len, errp);
    if (!buf) {
        return false;
    }
    if (g_hash_table_contains(state->tables, name)) {
        error_setg(errp, "network state names netdev '%s' twice", name);
        return false;
    }
    table = colo_rewrite_load(buf, len, COLO_REWRITE_CONNS_DEFAULT, errp);
    if (!table) {
        error_prepend(errp, "netdev '%s': ", name);
        return false;
    }
    g_hash_table_insert(state->tables, g_steal_pointer(&name), table);
    return true;
}

static void table_free(gpointer table)
{
    if (table) {
        colo_rewrite_table_free(table);
    }
}

ColoProxyState *colo_proxy_load(const uint8_t *buf, size_t len, Error **errp)
{
    g_autoptr(ColoProxyState) state = g_new0(ColoProxyState, 1);
    Reader r = { .buf = buf, .len = len };
    uint16_t version, count;

    state->tables = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                          table_free);
    if (!get_be16(&r, &version, errp) || !get_be16(&r, &count, errp)) {
        return NULL;
    }
    if (version != STATE_VERSION || count > STATE_MAX_NETDEVS) {
        error_setg(errp, "network state of version %u with %u netdevs; this "
                   "side knows version %d with up to %d", version, count,
                   STATE_VERSION, STATE_MAX_NETDEVS);
        return NULL;
    }
    while (count--) {
        if (!load_netdev(state, &r, errp)) {
            return NULL;
        }
    }
    if (r.len) {
        error_setg(errp, "network state with %zu bytes too much", r.len);
        return NULL;
    }
    return g_steal_pointer(&state);
}

void colo_proxy_state_free(ColoProxyState *state)
{
    if (state) {
        g_hash_table_unref(state->tables);
        g_free(state);
    }
}

static void commit_rewriter(NetFilterState *nf, uint64_t opaque)
{
    ColoProxyState *state = (ColoProxyState *)(uintptr_t)opaque;
    gpointer name, table = NULL;

    if (g_hash_table_steal_extended(state->tables, nf->netdev->name, &name,
                                    &table)) {
        g_free(name);
    }
    colo_rewrite_commit(FILTER_REWRITER(nf)->core, table);
    colo_repair_reset(FILTER_REWRITER(nf)->repair);
}

/* What waits at the NIC is input of an epoch that is over. */
static void purge_input(NICState *nic, void *opaque)
{
    NetClientState *nc = nic_netdev(nic);

    if (nc) {
        qemu_purge_queued_packets(nc);
    }
}

void colo_proxy_commit(uint64_t epoch, ColoProxyState *state)
{
    g_autoptr(ColoProxyState) owned = state;

    trace_colo_proxy_commit(epoch);
    proxy.status.has_epoch = true;
    proxy.status.epoch = epoch;
    qemu_foreach_nic(purge_input, NULL);
    foreach_filter(TYPE_FILTER_REWRITER, commit_rewriter, (uintptr_t)owned);
    foreach_filter(TYPE_FILTER_REDIRECTOR, colo_redirector_commit, epoch);
}

void colo_proxy_stop_secondary(bool survivor)
{
    if (proxy.status.role != COLO_PROXY_SECONDARY || !survivor) {
        return;
    }
    trace_colo_proxy_stop("secondary", survivor);
    foreach_filter(TYPE_FILTER_REDIRECTOR, redirector_stop, true);
    foreach_filter(TYPE_FILTER_REWRITER, rewriter_mode, COLO_REWRITE_WIRE);
    end();
}
