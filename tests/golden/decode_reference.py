#!/usr/bin/env python3
"""Decodes the golden files with nothing but proto/README.md and the standard library.

usage: decode_reference.py FOLDER
For each NAME.json in FOLDER (the schema's part and the expected values) it decodes NAME.qflf.
Prints one line a file; exits with 1 if any differs.
"""

import array
import hashlib
import json
import math
import pathlib
import struct
import sys

CODE_BYTES_MAX = 196608


def make_crc_table():
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


CRC_TABLE = make_crc_table()


def crc32c(data, crc=0):
    table = CRC_TABLE
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def require(condition, message):
    if not condition:
        raise ValueError(message)


def fp32(value):
    """One rounding. Exact for a double that is the sum or product of two fp32: 53 >= 2 * 24 + 2 bits
    make the double's own rounding harmless."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def crc_holds(data):
    return struct.unpack_from("<I", data, len(data) - 4)[0] == crc32c(data[:-4])


def split_file(data):
    magic, version, reserved, header_size, chunk_count = struct.unpack_from("<4sHHII", data, 0)
    require((magic, version, reserved) == (b"QFLF", 1, 0), "not an update file")
    header = data[16 : 16 + header_size]
    at = 16 + header_size
    chunks = []
    for _ in range(chunk_count):
        (size,) = struct.unpack_from("<I", data, at)
        chunks.append(data[at + 4 : at + 4 + size])
        require(len(chunks[-1]) == size, "chunk cut off")
        at += 4 + size
    require(at == len(data), "bytes after the last chunk")
    return header, chunks


class Header:
    def __init__(self, data, digest):
        require(len(data) >= 112 and crc_holds(data), "header checksum")
        (
            magic, version, quantiser, scope, self.levels, representative, rounding, block_size, pack,
            context, class_rule, transform, chunk_log2, reserved, self.n, self.chunk_count,
            self.codes_crc, schema, history, side_size,
        ) = struct.unpack_from("<4sHBBHBBIBBBBB3sQII32s32sI", data, 0)
        require((magic, version) == (b"QFLU", 1), "magic and version")
        require(quantiser in (0, 1), "quantiser")
        self.is_fp32 = quantiser == 0
        require(self.levels == 0 if self.is_fp32 else 2 <= self.levels <= 256, "levels")
        ids = (scope, representative, rounding, block_size, pack, context, class_rule, transform)
        require(not any(ids) and not any(reserved) and not any(history), "reserved fields")
        require(schema == digest, "another schema")
        require(len(data) == 112 + side_size, "side_size")
        self.params_per_chunk = 1 << chunk_log2
        self.bits = 32 if self.is_fp32 else (self.levels - 1).bit_length()
        self.ranges = list(struct.iter_unpack("<ff", data[108 : 108 + side_size]))
        for lo, step in self.ranges:
            require(math.isfinite(lo) and math.isfinite(step) and step >= 0, "range")


def segments(tensors, bits, first, end):
    """(tensor, parameters, bytes) of each segment of the chunk [first, end)."""
    offset = 0
    for index, (size, is_fp32) in enumerate(tensors):
        count = min(end, offset + size) - max(first, offset)
        if count > 0:
            yield index, count, 4 * count if is_fp32 else (count * bits + 7) // 8
        offset += size


def params_per_chunk(tensors, bits, n):
    for log2 in range(20, -1, -1):
        p = 1 << log2
        if all(
            sum(s[2] for s in segments(tensors, bits, first, min(n, first + p))) <= CODE_BYTES_MAX
            for first in range(0, n, p)
        ):
            return p
    raise AssertionError


def unpack(data, bits, count):
    word = int.from_bytes(data, "little")
    require(word >> (bits * count) == 0, "padding")
    text = f"{word:0{len(data) * 8}b}"[::-1]  # least significant bit first
    codes_of = {f"{c:0{bits}b}"[::-1]: c for c in range(1 << bits)}
    return bytes(codes_of[text[i * bits : (i + 1) * bits]] for i in range(count))


def decode(data, schema):
    header_bytes, chunks = split_file(data)
    header = Header(header_bytes, bytes.fromhex(schema["schema_digest"]))
    tensors = [
        (math.prod(t["shape"]), header.is_fp32 or t["policy"] == "fp32") for t in schema["tensors"]
    ]
    n = sum(size for size, _ in tensors)
    require(header.n == n, "n")
    range_of = {}
    for index, (_, is_fp32) in enumerate(tensors):
        if not is_fp32:
            range_of[index] = len(range_of)
    require(len(header.ranges) == len(range_of), "ranges")
    require(header.params_per_chunk == params_per_chunk(tensors, header.bits, n), "chunk_log2")
    require(header.chunk_count == len(chunks) == -(-n // header.params_per_chunk), "chunk_count")

    values = array.array("f")
    codes_crc = 0
    for index, chunk in enumerate(chunks):
        require(crc_holds(chunk), "chunk checksum")
        stated, pack, reserved, code_size = struct.unpack_from("<IB3sI", chunk, 0)
        require((stated, pack, reserved) == (index, 0, b"\0\0\0"), "chunk fields")
        require(len(chunk) == 16 + code_size, "code_size")
        at = 12
        first = index * header.params_per_chunk
        for tensor, count, size in segments(
            tensors, header.bits, first, min(n, first + header.params_per_chunk)
        ):
            body = chunk[at : at + size]
            at += size
            if tensor not in range_of:
                part = array.array("f", [v for (v,) in struct.iter_unpack("<f", body)])
                require(all(math.isfinite(v) for v in part), "not finite")
                codes_crc = crc32c(body, codes_crc)
            else:
                codes = unpack(body, header.bits, count)
                require(max(codes) < header.levels, "code")
                codes_crc = crc32c(codes, codes_crc)
                lo, step = header.ranges[range_of[tensor]]
                table = [fp32(lo + fp32((c + 0.5) * step)) for c in range(header.levels)]
                part = array.array("f", [table[c] for c in codes])
            values.extend(part)
        require(at == 12 + code_size, "segments")
    require(codes_crc == header.codes_crc, "codes_crc32c")
    return values


def main():
    folder = pathlib.Path(sys.argv[1])
    require(crc32c(b"123456789") == 0xE3069283, "this program's crc32c")
    schemas = sorted(folder.glob("*.json"))
    require(schemas, f"no golden files in {folder}")
    failed = False
    for path in schemas:
        schema = json.loads(path.read_text())
        try:
            values = decode(path.with_suffix(".qflf").read_bytes(), schema)
            raw = struct.pack(f"<{len(values)}f", *values)
            require(hashlib.sha256(raw).hexdigest() == schema["values_sha256"], "other values")
            shown = [f"{v:08x}" for (v,) in struct.iter_unpack("<I", raw)]
            require(schema["values"] in ([], shown), "other bit patterns")
            print(f"ok      {path.stem}: {len(values)} values")
        except (ValueError, struct.error) as error:
            failed = True
            print(f"FAILED  {path.stem}: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
