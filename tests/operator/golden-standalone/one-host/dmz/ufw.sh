#!/bin/sh
# zimage-operator render --target standalone, from the ZImageService studio: change that.
#
# The rules of nftables.conf beside this file, for a host whose firewall is ufw: use one of the two, not both.
# Each rule is put before the others: read from the last one to the first. ufw denies what no rule allows.
set -eu
ufw prepend deny proto tcp from any to any port 7860,9090
ufw prepend allow proto tcp from any to any port 80,443
