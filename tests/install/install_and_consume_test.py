"""Installs the libraries into an empty folder and builds a ten-line project against them."""
import argparse
import pathlib
import subprocess
import tempfile

CMAKE = """cmake_minimum_required(VERSION 3.25)
project(consumer CXX)
set(CMAKE_CXX_STANDARD 20)
find_package(quantfl REQUIRED)
add_executable(consumer main.cc)
target_link_libraries(consumer quantfl::codec)
"""
MAIN = """#include <cstdio>
#include "common/codec/update.h"
int main() {
  namespace codec = quantfl::codec;
  auto layout = codec::Layout::Create({{{4}, codec::TensorPolicy::kQuantise}}, std::string(32, 'x'));
  const float delta[] = {-1.f, 0.f, .5f, 1.f};
  auto update = codec::Encode(delta, *layout, codec::BuSpec(16), {});
  auto back = codec::Decode(update->header, update->chunks, *layout);
  for (float x : *back) std::printf("%.5f ", x);
}
"""

parser = argparse.ArgumentParser()
parser.add_argument("--source", type=pathlib.Path, required=True)
parser.add_argument("--build", type=pathlib.Path, required=True)
args = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    prefix, source, build = root / "prefix", root / "source", root / "build"
    subprocess.run(["cmake", "--install", args.build, "--prefix", prefix, "--component", "dev"],
                   check=True, stdout=subprocess.DEVNULL)
    source.mkdir()
    (source / "CMakeLists.txt").write_text(CMAKE)
    (source / "main.cc").write_text(MAIN)
    subprocess.run(["cmake", "-S", source, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}"],
                   check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", build], check=True, stdout=subprocess.DEVNULL)
    out = subprocess.run([build / "consumer"], check=True, capture_output=True, text=True).stdout
    # Sixteen buckets of width 1/8 on [-1, 1]: midpoints.
    assert out == "-0.93750 0.06250 0.56250 0.93750 ", out
    ldd = subprocess.run(["ldd", build / "consumer"], check=True, capture_output=True, text=True).stdout
    assert not any(x in ldd for x in ("grpc", "protobuf", "torch")), ldd
print("installed, found, linked, ran")
