#!/bin/sh
# Runs after the files are in place, at an installation and at an upgrade.
set -e

if ! getent passwd cwprelay >/dev/null; then
	if command -v systemd-sysusers >/dev/null; then
		systemd-sysusers /usr/lib/sysusers.d/cwprelay.conf
	else
		useradd --system --user-group --home-dir /var/lib/cwprelay --no-create-home --shell /usr/sbin/nologin cwprelay
	fi
fi

chown root:cwprelay /etc/cwprelay/cwprelay.yaml
chmod 0640 /etc/cwprelay/cwprelay.yaml
install -d -o cwprelay -g cwprelay -m 0700 /var/lib/cwprelay
install -d -o cwprelay -g cwprelay -m 0750 /var/log/cwprelay

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart cwprelay.service
fi

# Debian says configure with the former version or nothing, RPM how many are
# installed.
if [ "$1" = 1 ] || { [ "$1" = configure ] && [ -z "$2" ]; }; then
	echo "cwprelay: put the keys of the API into /etc/cwprelay/cwprelay.yaml, see: cwprelay check"
	echo "cwprelay: then start it: systemctl enable --now cwprelay"
fi
