"""Our resizing and normalisation against Python's torch. argv: transform_peer"""
import os
import subprocess
import sys
import tempfile

try:
    import numpy
    import torch
except ImportError as e:
    print("skipped: this Python (%s) lacks numpy or torch (%s)" % (sys.executable, e))
    sys.exit(77)

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
# channels, height, width, input channels, height, width, normalisation
CASES = [(3, 32, 32, 3, 128, 128, IMAGENET), (3, 32, 32, 3, 224, 160, IMAGENET),
         (3, 48, 31, 3, 20, 32, IMAGENET), (1, 28, 28, 3, 32, 32, IMAGENET),
         (1, 28, 28, 1, 27, 29, ([0.2], [0.33])), (2, 5, 1, 2, 9, 7, ([0.5], [0.1])),
         (1, 1, 1, 1, 4, 4, ([0.5], [0.5])), (3, 32, 32, 3, 32, 32, IMAGENET)]
# torch places its samples in float32: at 32 pixels, a weight is off by some 4e-6, a value by 1 / stddev times that.
TOLERANCE = 3e-5


def main():
    torch.set_num_threads(1)
    random = numpy.random.default_rng(1)
    for channels, height, width, to_channels, to_height, to_width, (mean, stddev) in CASES:
        x = random.integers(0, 256, (4, channels, height, width), numpy.uint8)
        with tempfile.TemporaryDirectory() as folder:
            pixels, out = os.path.join(folder, "pixels"), os.path.join(folder, "out")
            x.tofile(pixels)
            subprocess.run([sys.argv[1], pixels, *map(str, (channels, height, width, len(x), to_channels,
                                                            to_height, to_width)),
                            ",".join(map(str, mean)), ",".join(map(str, stddev)), out], check=True)
            ours = torch.from_numpy(numpy.fromfile(out, numpy.float32))
        theirs = torch.nn.functional.interpolate(torch.from_numpy(x).float() / 255, (to_height, to_width),
                                                 mode="bilinear", align_corners=False)
        theirs = theirs.expand(-1, to_channels, -1, -1)
        theirs = (theirs - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(stddev).view(1, -1, 1, 1)
        error = float((ours.view(theirs.shape) - theirs).abs().max())
        print("%d x %d x %d to %d x %d x %d  %.2g" % (channels, height, width, to_channels, to_height,
                                                     to_width, error))
        assert error <= TOLERANCE


if __name__ == "__main__":
    main()
