#!/bin/sh
# Runs after the files went. The events that are still to be delivered, in
# /var/lib/cwprelay, and the files of file sinks stay until a purge; RPM knows
# none.
set -e

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
if [ "$1" = purge ]; then
	rm -rf /var/lib/cwprelay /var/log/cwprelay /etc/cwprelay/credentials
	rmdir --ignore-fail-on-non-empty /etc/cwprelay 2>/dev/null || true
fi
