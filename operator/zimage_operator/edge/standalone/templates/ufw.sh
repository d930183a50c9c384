#!/bin/sh
# @HEAD@
#
# The rules of nftables.conf beside this file, for a host whose firewall is ufw: use one of the two, not both.
# Each rule is put before the others: read from the last one to the first. ufw denies what no rule allows.
set -eu
@RULES@
