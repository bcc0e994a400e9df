#!/bin/sh
# The runtime stage: no package installer, no setuid programs, and a name for the user that the image runs as.
# Files of the base image stay in its layer, but nothing in a container sees them.
set -eu
for root in /usr/local/lib /usr/lib; do
  rm -rf "$root"/python3*/ensurepip "$root"/python3*/idlelib "$root"/python3*/site-packages/pip* \
    "$root"/python3*/site-packages/setuptools* "$root"/python3*/site-packages/wheel*
done
rm -f /usr/local/bin/pip* /usr/local/bin/idle* /usr/local/bin/wheel
find / -xdev -type f -perm /6000 -exec chmod a-s {} +
if ! grep -q ':65532:' /etc/passwd; then
  echo 'spillway:x:65532:' >>/etc/group
  echo 'spillway:x:65532:65532:Spillway:/:/usr/sbin/nologin' >>/etc/passwd
fi
