# Packets and frames as the net sockets of QEMU carry them
#
# SPDX-License-Identifier: GPL-2.0-or-later

import random
import struct

MAC_A = bytes.fromhex('525400123456')
MAC_B = bytes.fromhex('525400654321')
MAX_FRAME = 69632


def frame(packet, vnet_len=None, size=None):
    """A frame: length, vnet header length if given, packet."""
    head = struct.pack('>I', len(packet) if size is None else size)
    if vnet_len is not None:
        head += struct.pack('>I', vnet_len)
    return head + packet


def checksum(data):
    data += b'\0' * (len(data) % 2)
    total = sum(struct.unpack(f'>{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def ether(kind, payload):
    return MAC_B + MAC_A + struct.pack('>H', kind) + payload


def ipv4(proto, payload, ihl=5, ident=1):
    head = struct.pack('>BBHHHBBH4s4s', 0x40 | ihl, 0, ihl * 4 + len(payload),
                       ident, 0, 64, proto, 0, bytes([10, 77, 0, 2]),
                       bytes([10, 77, 0, 1]))
    head += bytes((ihl - 5) * 4)
    head = head[:10] + struct.pack('>H', checksum(head)) + head[12:]
    return ether(0x0800, head + payload)


def ipv6(proto, payload):
    head = struct.pack('>IHBB16s16s', 6 << 28, len(payload), proto, 64,
                       bytes(15) + b'\1', bytes(15) + b'\2')
    return ether(0x86dd, head + payload)


def tcp(seq=1, ack=1, flags=0x10, payload=b'', offset=5):
    return struct.pack('>HHIIBBHHH', 7001, 40000, seq, ack, offset << 4,
                       flags, 8192, 0, 0) + bytes(max(0, offset - 5) * 4) + \
        payload


def udp(payload=b'data'):
    return struct.pack('>HHHH', 7005, 40000, 8 + len(payload), 0) + payload


def valid_packets():
    """One good packet of each kind."""
    return {
        'tcp': ipv4(6, tcp(payload=b'hello')),
        'syn': ipv4(6, tcp(flags=2, offset=6)),
        'udp': ipv4(17, udp()),
        'icmp': ipv4(1, struct.pack('>BBHHH', 8, 0, 0, 1, 1) + b'ping'),
        'ah': ipv4(51, struct.pack('>BBHII', 6, 4, 0, 1, 1) + bytes(12) +
                   tcp()),
        'ip-options': ipv4(6, tcp(payload=b'x'), ihl=15),
        'tcp6': ipv6(6, tcp(payload=b'hello')),
        'udp6': ipv6(17, udp()),
        'icmp6': ipv6(58, struct.pack('>BBHHH', 128, 0, 0, 1, 1)),
        'hopopts6': ipv6(0, struct.pack('>BB6x', 6, 0) + tcp()),
        'fragment6': ipv6(44, struct.pack('>BBHI', 17, 0, 1, 7) + udp()),
        'arp': ether(0x0806, bytes(28)),
        'vlan': ether(0x8100, struct.pack('>HH', 5, 0x0800) +
                      ipv4(17, udp())[14:]),
    }


def cut_packets():
    """Each good packet cut at every length."""
    for name, packet in valid_packets().items():
        for length in range(len(packet)):
            yield f'{name} cut at {length}', packet[:length]


def lying_packets():
    """Packets whose headers say what is not so."""
    for offset in range(16):
        yield f'tcp data offset {offset}', ipv4(6, tcp(
            payload=b'x')[:12] + bytes([offset << 4]) + tcp()[13:] + b'x')
    for ihl in range(16):
        good = ipv4(6, tcp(payload=b'x'))
        yield f'ip header length {ihl}', \
            good[:14] + bytes([0x40 | ihl]) + good[15:]
    for total in 0, 1, 19, 20, 39, 41, 1500, 65535:
        good = ipv4(17, udp())
        yield f'ip total length {total}', \
            good[:16] + struct.pack('>H', total) + good[18:]
    for size in 0, 7, 8, 9, 65535:
        good = udp()
        yield f'udp length {size}', ipv4(17, good[:4] + struct.pack(
            '>H', size) + good[6:])
    for option in ((0, b'\2'), (1, b'\2\0'), (2, b'\2\xff'), (3, b'\5\3'),
                   (4, b'\3\1')):
        body = option[1].ljust(4, b'\1')
        yield f'tcp option {option[1].hex()}', ipv4(6, tcp(
            flags=2, offset=6)[:20] + body)
    for payload in 0, 1, 65535:
        good = ipv6(6, tcp())
        yield f'ipv6 payload length {payload}', \
            good[:18] + struct.pack('>H', payload) + good[20:]


def random_packets(count, seed):
    rng = random.Random(seed)
    good = list(valid_packets().values())
    for number in range(count):
        packet = bytearray(rng.choice(good))
        for _ in range(rng.randrange(1, 8)):
            packet[rng.randrange(len(packet))] = rng.randrange(256)
        yield f'random {number}', bytes(packet)


def broken_frames(vnet):
    """Streams that are no frames; each ends the connection or is refused."""
    good = valid_packets()['tcp']
    vnet_len = 12 if vnet else None
    body = bytes(12) + good if vnet else good
    whole = frame(body, vnet_len)
    yield 'zero length', frame(b'', vnet_len, 0)
    yield 'many zero lengths', frame(b'', vnet_len, 0) * 100
    for size in (MAX_FRAME + 1, 1 << 24, 0x7fffffff, 0x80000000, 0xfffffffe,
                 0xffffffff):
        yield f'length {size:#x}', frame(body, vnet_len, size) * 3
    for length in range(len(whole)):
        yield f'frame truncated after {length}', whole[:length]
    if vnet:
        for size in (len(body), len(body) + 1, 13, 65535, 0x7fffffff,
                     0xffffffff):
            yield f'vnet header length {size:#x}', frame(body, size)
    yield 'other kind of header', frame(good, None if vnet else 12)
    rng = random.Random(7)
    for number in range(20):
        yield f'garbage {number}', rng.randbytes(rng.randrange(1, 4000))
