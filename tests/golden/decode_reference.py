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
QUANTISERS = {0: "fp32", 1: "bu", 2: "bq", 4: "fp16", 5: "int8"}
SCOPES = ["tensor", "block", "model"]


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
        self.quantiser = QUANTISERS[quantiser]
        self.is_fp32 = self.quantiser == "fp32"
        self.has_codes = self.quantiser not in ("fp32", "fp16")
        least, most = {"fp32": (0, 0), "fp16": (0, 0), "int8": (255, 255)}.get(
            self.quantiser, (2, 256)
        )
        require(least <= self.levels <= most, "levels")
        require(scope <= (2 if self.quantiser in ("bu", "bq") else 0), "scope")
        self.scope = SCOPES[scope]
        require(block_size % 8 == 0 and (block_size >= 8) == (scope == 1), "block_size")
        self.block_size = block_size
        require(representative == 1 or self.quantiser != "bq", "representative")
        require(representative == 0 or self.quantiser in ("bu", "bq"), "representative")
        self.has_codebook = representative == 1
        require(rounding == 0 or self.quantiser in ("bu", "int8"), "rounding")
        require(rounding <= 1 and rounding + representative < 2, "rounding")
        ids = (pack, context, class_rule, transform)
        require(not any(ids) and not any(reserved) and not any(history), "reserved fields")
        require(schema == digest, "another schema")
        require(len(data) == 112 + side_size, "side_size")
        self.params_per_chunk = 1 << chunk_log2
        self.bits = {"fp32": 32, "fp16": 16}.get(self.quantiser, (self.levels - 1).bit_length())
        self.block_bytes = 2 * self.levels if self.has_codebook else 4
        self.side = data[108 : 108 + side_size]

    def segment_bytes(self, is_fp32, count):
        """(side information, codes or values) of a segment, in bytes."""
        if is_fp32:
            return 0, 4 * count
        blocks = -(-count // self.block_size) if self.scope == "block" else 0
        return blocks * self.block_bytes, (count * self.bits + 7) // 8

    def parse_scopes(self, quantised_tensors):
        """A codebook, a scale, for each scope."""
        count = min(1, quantised_tensors) if self.scope == "model" else quantised_tensors
        if self.is_fp32:
            count = 0
        in_blocks = self.scope == "block"
        affine = self.quantiser == "bu" and not self.has_codebook and not in_blocks
        if affine:
            form = "<ff"
        elif self.has_codebook and not in_blocks:
            form = f"<f{self.levels}e"
        else:
            form = "<f"
        require(len(self.side) == count * struct.calcsize(form), "side_size")
        self.scopes = []
        for fields in struct.iter_unpack(form, self.side):
            require(all(math.isfinite(v) for v in fields), "finite")
            if affine:
                self.scopes.append(affine_table(*fields, self.levels))
            elif self.quantiser == "int8":
                self.scopes.append([fp32((c - 127) * fields[0]) for c in range(255)])
            elif len(fields) > 1:
                self.scopes.append([fp32(h * fields[0]) for h in fields[1:]])
            else:
                self.scopes.append(fields[0])

    def block_table(self, side, scale):
        if self.has_codebook:
            values = [fp32(h * scale) for h in struct.unpack(f"<{self.levels}e", side)]
        else:
            lo, step = struct.unpack("<ee", side)
            values = affine_table(fp32(lo * scale), fp32(step * scale), self.levels)
        require(all(math.isfinite(v) for v in values), "finite")
        return values


def affine_table(lo, step, levels):
    require(step >= 0 and math.copysign(1, step) > 0, "step")
    return [fp32(lo + fp32((c + 0.5) * step)) for c in range(levels)]


def segments(tensors, header, first, end):
    """(tensor, parameters, bytes of side information, bytes of codes or values) of each segment of
    the chunk [first, end)."""
    offset = 0
    for index, (size, is_fp32) in enumerate(tensors):
        count = min(end, offset + size) - max(first, offset)
        if count > 0:
            yield index, count, *header.segment_bytes(is_fp32, count)
        offset += size


def params_per_chunk(tensors, header, n):
    for log2 in range(20, -1, -1):
        p = 1 << log2
        if all(
            sum(s[2] + s[3] for s in segments(tensors, header, first, min(n, first + p)))
            <= CODE_BYTES_MAX
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
    header.parse_scopes(len(range_of))
    require(header.params_per_chunk == params_per_chunk(tensors, header, n), "chunk_log2")
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
        for tensor, count, side_size, size in segments(
            tensors, header, first, min(n, first + header.params_per_chunk)
        ):
            side = chunk[at : at + side_size]
            body = chunk[at + side_size : at + side_size + size]
            at += side_size + size
            if tensor not in range_of:
                part = array.array("f", [v for (v,) in struct.iter_unpack("<f", body)])
                codes_crc = crc32c(body, codes_crc)
            else:
                scope = header.scopes[0 if header.scope == "model" else range_of[tensor]]
                if not header.has_codes:
                    part = [fp32(h * scope) for (h,) in struct.iter_unpack("<e", body)]
                    part = array.array("f", part)
                    codes_crc = crc32c(body, codes_crc)
                else:
                    codes = unpack(body, header.bits, count)
                    require(max(codes) < header.levels, "code")
                    codes_crc = crc32c(codes, codes_crc)
                    part = array.array("f")
                    step = header.block_size or count
                    for block, begin in enumerate(range(0, count, step)):
                        table = scope
                        if header.scope == "block":
                            entry = side[block * header.block_bytes :][: header.block_bytes]
                            table = header.block_table(entry, scope)
                        part.extend(table[c] for c in codes[begin : begin + step])
            require(all(math.isfinite(v) for v in part), "not finite")
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
        except (KeyError, ValueError, struct.error) as error:
            failed = True
            print(f"FAILED  {path.stem}: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
