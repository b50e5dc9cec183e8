#!/bin/sh
# closure.sh ROOT PROGRAM...: copies programs into the file tree ROOT with the libraries that the loader gives
# them (ldd), and the licences of the packages that these are from. What is loaded by name at run time (dlopen)
# ldd does not see: QuantFL's programs load nothing so.
set -eu
root="${1:?closure.sh ROOT PROGRAM...}"
shift
[ "$(realpath -m "$root")" != / ] || { echo "closure.sh: ROOT is this machine's own root" >&2; exit 64; }
mkdir -p "$root/usr/bin" "$root/usr/lib" "$root/usr/lib64" "$root/tmp"
chmod 1777 "$root/tmp"
for folder in bin lib lib64; do [ -e "$root/$folder" ] || ln -s "usr/$folder" "$root/$folder"; done
for program in "$@"; do
  from="$(command -v "$program")" || { echo "closure.sh: no program $program" >&2; exit 66; }
  cp -L "$from" "$root/usr/bin/"
  ldd "$from"
  realpath "$from" >>"$root/.files"
done >"$root/.ldd"
if grep "not found" "$root/.ldd" >&2; then exit 66; fi
sed -n 's|^[^/]*\(/[^ ]*\) (0x[0-9a-f]*)$|\1|p' "$root/.ldd" | sort -u >"$root/.libraries"
while read -r library; do
  # By the name that it is loaded by, in the folder that this name's folder really is.
  folder="$(realpath "$(dirname "$library")")"
  mkdir -p "$root$folder"
  cp -L "$library" "$root$folder/"
  realpath "$library" >>"$root/.files"
done <"$root/.libraries"
# dpkg may know a file of /usr/lib as one of /lib: asked for both, in one call, it tells about those that it knows.
sort -u "$root/.files" | sed 'p; s,^/usr/,/,' | xargs dpkg-query -S 2>/dev/null \
  | sed -n 's/^\([a-z0-9][a-z0-9.+-]*\)[:,].*/\1/p' | sort -u | while read -r package; do
  [ -f "/usr/share/doc/$package/copyright" ] || continue
  mkdir -p "$root/usr/share/doc/$package"
  cp -L "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/"
done
rm "$root/.ldd" "$root/.libraries" "$root/.files"
