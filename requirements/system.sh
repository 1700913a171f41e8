#!/bin/sh
# Debian packages that some tests use: a real MQTT broker and a real browser. Installs what is missing where it may.
set -eu
missing=""
command -v mosquitto >/dev/null || test -x /usr/sbin/mosquitto || missing="$missing mosquitto"
test -x /usr/bin/chromium || missing="$missing chromium"
test -x /usr/bin/chromedriver || missing="$missing chromium-driver"
command -v tshark >/dev/null || missing="$missing tshark"
test -n "$missing" || exit 0
if ! command -v apt-get >/dev/null; then echo "not installed, and no apt-get here:$missing"; exit 1; fi
as_root=""
if test "$(id -u)" != 0; then as_root="sudo -n"; fi
$as_root apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing
