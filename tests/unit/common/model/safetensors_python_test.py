"""Our safetensors files against the reference implementation, both ways. argv: safetensors_peer."""
import os
import subprocess
import sys
import tempfile

try:
    import numpy
    from safetensors import safe_open
    from safetensors.numpy import save_file
except ImportError as e:
    print("skipped: Python's safetensors and numpy are not both installed (%s)" % e)
    sys.exit(77)

VALUES = numpy.arange(12, dtype=numpy.float32) * numpy.float32(0.25) - numpy.float32(1)
MODEL = {"b.weight": VALUES[:6].reshape(2, 3), "a.scale": VALUES[6].reshape(()),
         'a "quoted" name': VALUES[7:]}


def main():
    peer = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        ours = os.path.join(folder, "ours.safetensors")
        subprocess.run([peer, "write", ours], check=True)
        with safe_open(ours, "np") as f:
            assert set(f.keys()) == set(MODEL), f.keys()
            assert f.metadata() == {"key": "value", "umlaut": "\u00e4"}, f.metadata()
            for name, values in MODEL.items():
                tensor = f.get_tensor(name)
                assert tensor.dtype == numpy.float32 and tensor.shape == values.shape, name
                assert numpy.array_equal(tensor, values), name

        theirs = os.path.join(folder, "theirs.safetensors")
        save_file({name: numpy.array(values) for name, values in MODEL.items()}, theirs,
                  metadata={"framework": "none"})
        subprocess.run([peer, "read", theirs], check=True)


if __name__ == "__main__":
    main()
