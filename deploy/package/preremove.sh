#!/bin/sh
# Runs before the files go, and before an upgrade: that goes on with the service.
set -e

if [ "$1" = remove ] || [ "$1" = 0 ]; then
	if [ -d /run/systemd/system ]; then
		systemctl disable --now cwprelay.service
	fi
fi
