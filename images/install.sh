#!/bin/sh
# install.sh LOCK ENVIRONMENT [DIRECTORY]: the wheels of a lock into a virtual environment, or into a directory for it.
#
# A lock is complete but for the packages that it names as left out, so nothing else is resolved (--no-deps), and
# nothing is compiled. Behind a proxy that signs TLS itself, give the build its certificates:
#   docker build --secret id=ca-certificates,src=/etc/ssl/certs/ca-certificates.crt …
# and for a package index of your own: --secret id=pip.conf,src=$HOME/.config/pip/pip.conf
set -eu
lock=$1 environment=$2 directory=${3:-}

[ ! -s /run/secrets/ca-certificates ] || export PIP_CERT=/run/secrets/ca-certificates
[ ! -s /run/secrets/pip.conf ] || export PIP_CONFIG_FILE=/run/secrets/pip.conf
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_DEFAULT_TIMEOUT=60

[ -x "$environment/bin/python3" ] || python3 -m venv --without-pip "$environment"
python3 -m pip --python "$environment/bin/python3" install --quiet --require-hashes --no-deps --only-binary :all: \
  --no-compile ${directory:+--target "$directory"} --requirement "$lock"
find "$environment/bin" -type f ! -name 'python*' -delete  # activation scripts and the packages' own commands
