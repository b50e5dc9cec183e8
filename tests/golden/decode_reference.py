#!/usr/bin/env python3
"""Decodes updates with nothing but proto/README.md and the standard library.

usage: decode_reference.py FOLDER
       decode_reference.py --random PROGRAM [SEED [COUNT]]

FOLDER: for each NAME.json in it (the schema's part and the expected values) it decodes NAME.qflf. Prints one line
a file; exits with 1 if any differs.

--random: PROGRAM (random_updates) makes COUNT random updates and a dozen changed ones of each, and says what the
project's decoder makes of them. Both must come to the same bits, or both refuse. Without SEED one from the clock: it
is printed, so that a failure can be repeated. Exits with 1 at the first difference.
"""

import array
import base64
import hashlib
import json
import math
import pathlib
import struct
import subprocess
import sys
import time

CODE_BYTES_MAX = 196608
QUANTISERS = {0: "fp32", 1: "bu", 2: "bq", 3: "uniform", 4: "fp16", 5: "int8"}
SCOPES = ["tensor", "block", "model"]

# Orthonormal DCT-II, of transform dct.
DCT = {
    3: [
        [0.5773502691896257, 0.5773502691896257, 0.5773502691896257],
        [0.7071067811865476, 0.0, -0.7071067811865476],
        [0.408248290463863, -0.816496580927726, 0.408248290463863],
    ],
    5: [
        [
            0.4472135954999579, 0.4472135954999579, 0.4472135954999579, 0.4472135954999579,
            0.4472135954999579
        ],
        [
            0.6015009550075456, 0.3717480344601845, 0.0, -0.3717480344601845,
            -0.6015009550075456
        ],
        [
            0.5116672736016927, -0.1954395075848548, -0.6324555320336759, -0.1954395075848548,
            0.5116672736016927
        ],
        [
            0.3717480344601845, -0.6015009550075456, 0.0, 0.6015009550075456,
            -0.3717480344601845
        ],
        [
            0.1954395075848548, -0.5116672736016927, 0.6324555320336759, -0.5116672736016927,
            0.1954395075848548
        ],
    ],
    7: [
        [
            0.37796447300922725, 0.37796447300922725, 0.37796447300922725, 0.37796447300922725,
            0.37796447300922725, 0.37796447300922725, 0.37796447300922725
        ],
        [
            0.5211208891696024, 0.417906505941275, 0.23192061392432986, 0.0,
            -0.23192061392432986, -0.417906505941275, -0.5211208891696024
        ],
        [
            0.4815881171200631, 0.11894244232135431, -0.3332693175289931, -0.5345224838248488,
            -0.3332693175289931, 0.11894244232135431, 0.4815881171200631
        ],
        [
            0.417906505941275, -0.23192061392432986, -0.5211208891696024, 0.0,
            0.5211208891696024, 0.23192061392432986, -0.417906505941275
        ],
        [
            0.3332693175289931, -0.4815881171200631, -0.11894244232135431, 0.5345224838248488,
            -0.11894244232135431, -0.4815881171200631, 0.3332693175289931
        ],
        [
            0.23192061392432986, -0.5211208891696024, 0.417906505941275, 0.0,
            -0.417906505941275, 0.5211208891696024, -0.23192061392432986
        ],
        [
            0.11894244232135431, -0.3332693175289931, 0.4815881171200631, -0.5345224838248488,
            0.4815881171200631, -0.3332693175289931, 0.11894244232135431
        ],
    ],
}


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
            magic, version, quantiser, scope, self.levels, representative, rounding, block_size,
            self.pack, context, class_rule, transform, chunk_log2, reserved, self.n, self.chunk_count,
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
        is_uniform = self.quantiser == "uniform"
        require(not is_uniform or self.levels % 2 == 1, "levels")
        require(scope <= (2 if self.quantiser in ("bu", "bq", "uniform") else 0), "scope")
        require(not is_uniform or scope == 2, "scope")
        self.scope = SCOPES[scope]
        least = max(8, 2 * self.levels if representative == 1 else 0)
        is_right = block_size % 8 == 0 and least <= block_size <= 1 << 20 if scope == 1 else block_size == 0
        require(is_right, "block_size")
        self.block_size = block_size
        require(representative == 1 or self.quantiser != "bq", "representative")
        self.has_codebook = representative == 1
        require(representative != 1 or self.quantiser in ("bu", "bq"), "representative")
        self.has_gains = representative == 2
        require(representative < 2 or (representative == 2 and is_uniform), "representative")
        require(rounding == 0 or self.quantiser in ("bu", "uniform", "int8"), "rounding")
        require(rounding <= 1 and (rounding == 0 or representative != 1), "rounding")
        require(self.pack == 0 or (self.pack == 1 and self.has_codes), "pack")
        require((context, class_rule) in ((0, 0), (1, 1)), "context and class_rule")
        require(context == 0 or self.pack == 1, "context without pack rans")
        self.has_contexts = context == 1
        self.contexts = None
        require(transform == 0 or (transform == 1 and self.has_codes), "transform")
        self.transform = transform
        require(not any(reserved) and not any(history), "reserved fields")
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
        size = count * struct.calcsize(form)
        gain_size = 2 * quantised_tensors if self.has_gains else 0
        whole = size + gain_size
        require(len(self.side) >= whole if self.has_contexts else len(self.side) == whole, "side_size")
        gains = [g for (g,) in struct.iter_unpack("<e", self.side[size:whole])]
        require(all(0.0625 <= g <= 16 for g in gains), "gain")
        self.section = self.side[whole:]
        side = self.side = self.side[:size]
        self.scopes = []
        for fields in struct.iter_unpack(form, side):
            require(all(math.isfinite(v) for v in fields), "finite")
            require_not_negative(fields[1] if affine else fields[0])
            if affine:
                self.scopes.append(affine_table(*fields, self.levels))
            elif self.quantiser in ("int8", "uniform"):
                step = fields[0]
                for scale in [fp32(g * step) for g in gains] or [step]:
                    zero = self.levels // 2
                    self.scopes.append([fp32((c - zero) * scale) for c in range(self.levels)])
            elif len(fields) > 1:
                self.scopes.append([fp32(h * fields[0]) for h in fields[1:]])
            else:
                self.scopes.append(fields[0])

    def block_table(self, side, scale):
        if self.has_codebook:
            values = [fp32(h * scale) for h in struct.unpack(f"<{self.levels}e", side)]
        else:
            lo, step = struct.unpack("<ee", side)
            require_not_negative(step)
            values = affine_table(fp32(lo * scale), fp32(step * scale), self.levels)
        require(all(math.isfinite(v) for v in values), "finite")
        return values


def require_not_negative(step):
    require(step >= 0 and math.copysign(1, step) > 0, "step or scale")


def affine_table(lo, step, levels):
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


def parametric(tag, mode, rate, levels, scale):
    high = mode + tag % 2
    require(high < levels and rate < 104, "parametric table")
    decay = 65536 - ((8 + rate % 8) << (rate // 8))
    ratio = math.isqrt(decay << 16) if tag == 4 else decay
    weights = [1 << 24]
    for _ in range(levels):
        weights.append(weights[-1] * ratio >> 16)
        if tag >= 4:
            ratio = ratio * decay >> 16
    of_code = [weights[mode - c if c <= mode else c - high] for c in range(levels)]
    frequencies = [1 + w * ((1 << scale) - levels) // sum(of_code) for w in of_code]
    frequencies[mode] += (1 << scale) - sum(frequencies)
    return frequencies


def rans_table(data, at, levels, scale, earlier):
    """The frequencies that begin at data[at], and where they end."""
    tag = data[at]
    at += 1
    if tag == 0:
        return [1 << scale] + [0] * (levels - 1), at
    if 2 <= tag <= 5:
        return parametric(tag, data[at], data[at + 1], levels, scale), at + 2
    if tag >= 64:
        require(tag - 64 < len(earlier), "table of a later class")
        return earlier[tag - 64], at
    require(16 <= tag <= 20, "tag of a table")
    first, last = data[at], data[at + 1]
    at += 2
    require(first <= last and 1 <= last < levels, "codes of a table")
    frequencies = [0] * levels
    code = first
    while code < last:
        value = data[at]
        at += 1
        if value == 0 or value >= 128:
            more = data[at]
            at += 1
            if value == 0:
                code += 1 + more
                require(code <= last, "zeros of a table")
                continue
            value += (more - 1) * 128
        frequencies[code] = value << (tag - 16)
        code += 1
    frequencies[last] = (1 << scale) - sum(frequencies)
    require(frequencies[last] > 0, "sum of a table")
    return frequencies, at


def rans_codes(data, classes, class_count, levels, shared=None):
    """One code for each entry of classes, and where the stream ends. shared: the scale and the tables
    that stand in the header."""
    lanes, scale = 1 << (data[0] & 15), data[0] >> 4
    require(lanes <= 32 and 10 <= scale <= 14, "shape")
    at = 1
    tables = []
    if shared:
        require(scale == shared[0], "scale")
        tables = shared[1]
    while len(tables) < class_count:
        frequencies, at = rans_table(data, at, levels, scale, tables)
        tables.append(frequencies)
    codes_of_slots, starts = [], []
    for frequencies in tables:
        codes_of_slots.append(bytes(c for c, f in enumerate(frequencies) for _ in range(f)))
        starts.append([sum(frequencies[:c]) for c in range(levels)])
    states = list(struct.unpack_from(f"<{lanes}I", data, at))
    require(min(states) >= 1 << 16, "state")
    at += 4 * lanes
    codes = bytearray()
    for i, index in enumerate(classes):
        x = states[i % lanes]
        slot = x & ((1 << scale) - 1)
        code = codes_of_slots[index][slot]
        codes.append(code)
        x = tables[index][code] * (x >> scale) + slot - starts[index][code]
        if x < 1 << 16:
            require(at + 2 <= len(data), "words")
            x = x << 16 | struct.unpack_from("<H", data, at)[0]
            at += 2
        states[i % lanes] = x
    require(set(states) == {1 << 16}, "end of the stream")
    return bytes(codes), at


def factors(shape):
    """Rows, columns and positions of a tensor that may have exponents."""
    if len(shape) < 2:
        return None
    rows, columns = shape[:2]
    positions = math.prod(shape[2:])
    return (rows, columns, positions) if rows + columns + positions <= math.prod(shape) // 4 else None


class Contexts:
    """Which class each code of a tensor is of."""

    def __init__(self, data, shapes, levels):
        class_count, self.scale, stated = data[0] + 1, data[1] & 127, data[1] >> 7
        require(class_count <= 64 and 10 <= self.scale <= 14, "contexts")
        data = data[2:]
        sizes = [factors(shape) for shape in shapes]
        fields = []
        for size in sizes:
            fields += [0] * bool(size) + [2] * stated + [1]
        numbers, used = rans_codes(data, fields, 3, 64)
        data = data[used:]
        numbers = iter(numbers)
        first = 0
        self.tensors = []
        kinds = []
        for size in sizes:
            flag = next(numbers) if size else 0
            require(flag <= 1, "flag")
            count = next(numbers) + 1 if stated else class_count
            require(first + count <= class_count, "classes")
            counts = [n if flag and n > 1 else 0 for n in size or (1, 1, 1)]
            self.tensors.append((first, count, next(numbers), counts, size))
            kinds += [0] * counts[0] + [1] * counts[1] + [2] * counts[2]
            first += count * stated
        require(first == class_count * stated, "classes")
        numbers = b""
        if kinds:
            numbers, used = rans_codes(data, kinds, 3, 32)
            data = data[used:]
        exponents = iter(n - 16 for n in numbers)
        self.exponents = [
            [[next(exponents) for _ in range(n)] for n in counts] for _, _, _, counts, _ in self.tensors
        ]
        self.tables = []
        at = 0
        for _ in range(class_count):
            table, at = rans_table(data, at, levels, self.scale, self.tables)
            self.tables.append(table)
        require(at == len(data), "end of the contexts")

    def classes(self, tensor, begin, count):
        first, class_count, base, counts, size = self.tensors[tensor]
        rows, columns, positions = self.exponents[tensor]
        for i in range(begin, begin + count):
            total = base
            if any(counts):
                row, rest = divmod(i, size[1] * size[2])
                column, position = divmod(rest, size[2])
                total += rows[row] if rows else 0
                total += columns[column] if columns else 0
                total += positions[position] if positions else 0
            yield first + min(max(total, 0), class_count - 1)


def rans_to_fixed(data, parts, bits, levels, contexts):
    """The segments of a chunk as in the fixed pack. parts: of each segment its parameters, its bytes
    in the fixed pack, those of them that are not codes, its place among the quantised tensors, and
    its first parameter's in that tensor."""
    classes = []
    index = 0
    for count, size, plain, tensor, begin in parts:
        if plain < size:
            classes += contexts.classes(tensor, begin, count) if contexts else [min(index, 63)] * count
            index += 1
    require(classes and len(data) < sum(part[1] for part in parts), "pack rans")
    stream = data[sum(part[2] for part in parts) :]
    shared = (contexts.scale, contexts.tables) if contexts else None
    codes, used = rans_codes(stream, classes, 0 if shared else min(index, 64), levels, shared)
    require(used == len(stream), "end of the stream")
    fixed = bytearray()
    for count, size, plain, _, _ in parts:
        fixed += data[:plain]
        data = data[plain:]
        if plain < size:
            text = "".join(f"{c:0{bits}b}" for c in reversed(codes[:count]))
            fixed += int(text, 2).to_bytes(size - plain, "little")
            codes = codes[count:]
    return bytes(fixed)


def transform_back(values, shape):
    """In place, the kernels of a tensor from coefficients."""
    side = shape[2] if len(shape) == 4 and shape[2] == shape[3] else 0
    if side not in DCT:
        return values
    matrix = DCT[side]

    def times_transposed(columns):
        # Sums from 0 upwards, as math.fsum and sum of newer versions do not.
        out = []
        for a in range(side):
            row = []
            for column in columns:
                total = 0.0
                for j in range(side):
                    total += matrix[j][a] * column[j]
                row.append(total)
            out.append(row)
        return out

    for at in range(0, len(values), side * side):
        kernel = [values[at + i * side : at + (i + 1) * side] for i in range(side)]
        half = times_transposed(list(zip(*kernel)))
        back = times_transposed(half)
        for a in range(side):
            for b in range(side):
                values[at + a * side + b] = fp32(back[b][a])
    return values


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
    if header.has_contexts:
        shapes = [schema["tensors"][index]["shape"] for index in range_of]
        header.contexts = Contexts(header.section, shapes, header.levels)
    offsets = [sum(size for size, _ in tensors[:index]) for index in range(len(tensors))]
    require(header.params_per_chunk == params_per_chunk(tensors, header, n), "chunk_log2")
    require(header.chunk_count == len(chunks) == -(-n // header.params_per_chunk), "chunk_count")

    values = array.array("f")
    codes_crc = 0
    for index, chunk in enumerate(chunks):
        require(crc_holds(chunk), "chunk checksum")
        stated, pack, reserved, code_size = struct.unpack_from("<IB3sI", chunk, 0)
        require((stated, reserved) == (index, b"\0\0\0") and pack in (0, header.pack), "chunk fields")
        require(len(chunk) == 16 + code_size, "code_size")
        at = 12
        first = index * header.params_per_chunk
        if pack == 1:
            end = min(n, first + header.params_per_chunk)
            parts = [
                (
                    count, side_size + size, side_size + (0 if tensor in range_of else size),
                    range_of.get(tensor), max(0, first - offsets[tensor]),
                )
                for tensor, count, side_size, size in segments(tensors, header, first, end)
            ]
            fixed = rans_to_fixed(chunk[12:-4], parts, header.bits, header.levels, header.contexts)
            chunk = chunk[:12] + fixed
            code_size = len(fixed)
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
                shared = header.scope == "model" and not header.has_gains
                scope = header.scopes[0 if shared else range_of[tensor]]
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
    if header.transform:
        for index in range_of:
            at, size = offsets[index], tensors[index][0]
            part = transform_back(values[at : at + size], schema["tensors"][index]["shape"])
            values[at : at + size] = part
            require(all(math.isfinite(v) for v in part), "not finite")
    return values


# What decode raises for an update that is not right: also where it ends too soon or a number is beyond fp32.
REFUSALS = (KeyError, ValueError, IndexError, OverflowError, StopIteration, struct.error)


def raw_values(data, schema):
    values = decode(data, schema)
    return struct.pack(f"<{len(values)}f", *values)


def check_folder(folder):
    schemas = sorted(folder.glob("*.json"))
    require(schemas, f"no golden files in {folder}")
    failed = False
    for path in schemas:
        schema = json.loads(path.read_text())
        try:
            raw = raw_values(path.with_suffix(".qflf").read_bytes(), schema)
            require(hashlib.sha256(raw).hexdigest() == schema["values_sha256"], "other values")
            shown = [f"{v:08x}" for (v,) in struct.iter_unpack("<I", raw)]
            require(schema["values"] in ([], shown), "other bit patterns")
            print(f"ok      {path.stem}: {len(raw) // 4} values")
        except REFUSALS as error:
            failed = True
            print(f"FAILED  {path.stem}: {error}")
    return 1 if failed else 0


def verdict(line):
    """(what this decoder says, whether it is what the other one said)"""
    try:
        raw = raw_values(base64.b64decode(line["update"]), line)
    except REFUSALS as error:
        return f"refused: {error!r}", "refused" in line
    digest = hashlib.sha256(raw).hexdigest()
    return f"values {digest}", digest == line.get("values_sha256")


def check_random(program, seed, count):
    print(f"seed {seed}, {count} updates and changed ones of them", flush=True)
    made = subprocess.Popen([program, str(seed), str(count)], stdout=subprocess.PIPE, text=True)
    total = changed = refused = 0
    for text in made.stdout:
        line = json.loads(text)
        said, is_same = verdict(line)
        if not is_same:
            made.kill()
            other = f"refused: {line['refused']}" if "refused" in line else f"values {line['values_sha256']}"
            print(f"FAILED  {line['spec']}, line {total + 1}\n  here   {said}\n  there  {other}\n{text}")
            print(f"Again: decode_reference.py --random {program} {seed} {count}")
            return 1
        require("changed" in line or "refused" not in line, "an update as it was encoded is refused")
        total += 1
        changed += "changed" in line
        refused += "refused" in line
    require(made.wait() == 0, f"{program} ended with {made.returncode}")
    print(f"ok      {total - changed} updates and {changed} changed ones, of which {refused} are refused by both")
    return 0


def main():
    require(crc32c(b"123456789") == 0xE3069283, "this program's crc32c")
    if sys.argv[1:2] == ["--random"]:
        program, *rest = sys.argv[2:]
        seed = int(rest[0]) if rest else time.time_ns() // 1000
        return check_random(program, seed, int(rest[1]) if len(rest) > 1 else 120)
    return check_folder(pathlib.Path(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
