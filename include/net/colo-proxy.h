/*
 * COLO proxy: what the checkpoint engine tells the network side
 *
 * The engine (migration/colo) owns epochs; the proxy (net/colo) owns packets.
 * These calls are the only way between them in this direction; in the other,
 * the proxy asks for checkpoints with colo_checkpoint_request().
 *
 * Every function here is called from the engine with the BQL held, and
 * returns without waiting for a peer.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_COLO_PROXY_H
#define NET_COLO_PROXY_H

/* Translation tables of one checkpoint, validated but not yet in force. */
typedef struct ColoProxyState ColoProxyState;

/*
 * Start to protect the PVM's network output. From here on no packet of the
 * guest leaves but by invariant 1 of the design.
 *
 * The VM is stopped. Fails, and changes nothing, when a netdev can't be
 * protected: vhost or multiqueue back ends, whose packets filters can't see.
 */
bool colo_proxy_start_primary(Error **errp);

/*
 * Checkpoint @epoch is being captured: what the guest emits and what is
 * mirrored to the SVM from now on belongs to @epoch. The VM is stopped.
 */
void colo_proxy_capture(uint64_t epoch);

/*
 * Append the translation tables as of the capture to @out. The VM is stopped,
 * between colo_proxy_capture() and its resume. @out belongs to the caller.
 */
void colo_proxy_save(GByteArray *out);

/*
 * Checkpoint @epoch is committed: output of older epochs leaves, that of
 * @epoch is compared, or held where there is no comparison.
 */
void colo_proxy_committed(uint64_t epoch);

/*
 * Does the network's output wait for checkpoints alone, all of it? False if
 * there is a comparison, or no netdev whose output could wait.
 */
bool colo_proxy_only_holds(void);

/*
 * The peer is lost and nobody has decided yet who survives: hold all output,
 * and at the bound drop the oldest (counted).
 */
void colo_proxy_peer_lost(void);

/*
 * The end of protection on the primary. With @survivor what is held leaves
 * in order and the network works as without COLO, with every COLO object
 * still in place; without, the peer has taken over: what is held is dropped
 * and nothing leaves any more.
 */
void colo_proxy_stop_primary(bool survivor);

/*
 * Become the secondary's proxy. The SVM is stopped. Output of the SVM goes
 * nowhere but to the comparison, and input only comes from the mirror.
 */
bool colo_proxy_start_secondary(Error **errp);

/*
 * Validate the @len bytes at @buf, which the peer's colo_proxy_save() wrote.
 * They are untrusted. Returns NULL and sets @errp if they are malformed;
 * else a state that belongs to the caller, to give to colo_proxy_commit()
 * or colo_proxy_state_free(). Changes nothing else and may be called without
 * the BQL.
 */
ColoProxyState *colo_proxy_load(const uint8_t *buf, size_t len, Error **errp);
void colo_proxy_state_free(ColoProxyState *state);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ColoProxyState, colo_proxy_state_free)

/*
 * Put @state in force (and take ownership): the SVM now is what the PVM was
 * at the capture of @epoch. Input queued for the SVM, and input that still
 * arrives before the marker of @epoch, is discarded. The SVM is stopped.
 * Can't fail: all that could was done by colo_proxy_load().
 */
void colo_proxy_commit(uint64_t epoch, ColoProxyState *state);

/*
 * The end of protection on the secondary: with @survivor the SVM speaks to
 * the network itself, its connections translated as long as they live;
 * without, it stays cut off. The SVM is stopped.
 */
void colo_proxy_stop_secondary(bool survivor);

#endif
