#!/usr/bin/env bash
# Assembles the whole root of Endcap's image in DEST, of an `endcap` and a `libonnxruntime.so`: these, the libraries that
# they are linked with, certificates of authorities, a user without rights, and a list of what is in it. No shell, no
# package manager. Debian only, whose packages the list names.
#
#   root.sh DEST ENDCAP LIBONNXRUNTIME BUNDLE
set -euo pipefail

[ $# = 4 ] || { echo "usage: root.sh DEST ENDCAP LIBONNXRUNTIME BUNDLE" >&2; exit 2; }
dest=$1 endcap=$2 library=$3 bundle=$4
here=$(cd "$(dirname "$0")" && pwd)

install -d "$dest"/{etc/ssl/certs,usr/local/bin,usr/local/share/endcap,usr/lib,tmp,data}
install -m 755 "$endcap" "$dest/usr/local/bin/endcap"
# Beside the program is where it is looked for.
install -m 755 "$library" "$dest/usr/local/bin/libonnxruntime.so"
install -m 644 "$bundle" "$dest/usr/local/share/endcap/search-ranker.endcap"
install -m 644 /etc/ssl/certs/ca-certificates.crt "$dest/etc/ssl/certs/"
ln -sfn usr/lib "$dest/lib"
ln -sfn usr/lib "$dest/lib64"

libraries=$(ldd "$endcap" "$library" | awk '$2 == "=>" { print $3 } $1 ~ "^/" && NF == 2 { print $1 }' | sort -u)
for file in $libraries; do
  # By the name that the loader looks for, whether that is a link or not.
  install -m 755 "$(readlink -f "$file")" "$dest/usr/lib/$(basename "$file")"
done

echo 'endcap:x:65532:65532:Endcap:/data:/sbin/nologin' > "$dest/etc/passwd"
echo 'endcap:x:65532:' > "$dest/etc/group"
echo 'hosts: files dns' > "$dest/etc/nsswitch.conf"
chown 65532:65532 "$dest/data"
chmod 1777 "$dest/tmp"

# shellcheck disable=SC2086  # one word per library
"$here/sbom.py" $libraries > "$dest/usr/local/share/endcap/sbom.spdx.json"
# The same content is the same image, whenever it was built.
find "$dest" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +
