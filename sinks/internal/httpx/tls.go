package httpx

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"
)

// TLS configures how the destination's certificate is verified and which one
// we show. Files are read again when they change.
type TLS struct {
	CAFile     string `koanf:"ca_file"`     // PEM; in place of the system's authorities
	CertFile   string `koanf:"cert_file"`   // PEM; our certificate, with its chain
	KeyFile    string `koanf:"key_file"`    // PEM; its key
	ServerName string `koanf:"server_name"` // the name to verify, if not the address's

	// InsecureSkipVerify accepts any certificate: whoever is on the way can
	// read and change everything.
	InsecureSkipVerify bool `koanf:"insecure_skip_verify"`
}

// Validate reports every mistake, each beginning with its key. It does not
// read the files.
func (t TLS) Validate() error {
	var errs []error
	if t.CertFile != "" && t.KeyFile == "" {
		errs = append(errs, errors.New("key_file: required with cert_file"))
	}
	if t.KeyFile != "" && t.CertFile == "" {
		errs = append(errs, errors.New("cert_file: required with key_file"))
	}
	if t.InsecureSkipVerify && t.CAFile != "" {
		errs = append(errs, errors.New("insecure_skip_verify: ca_file would have no effect; remove one of the two"))
	}
	return errors.Join(errs...)
}

// Config reads the files and returns a new configuration, TLS 1.2 at least.
func (t TLS) Config() (*tls.Config, error) {
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.ServerName,
		InsecureSkipVerify: t.InsecureSkipVerify, //nolint:gosec // only if the operator wrote it
	}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("tls.ca_file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.ca_file: no PEM certificate in %s", t.CAFile)
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("tls.cert_file: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// A stamp tells one content of a file from the next.
type stamp struct {
	modified time.Time
	size     int64
}

// Stamps tell one content of the three files from the next.
type Stamps [3]stamp

// Stamps looks at the three files; one that is missing or not configured has
// the zero stamp. Symbolic links, as Kubernetes uses them for rotation, are
// followed.
func (t TLS) Stamps() (all Stamps) {
	for i, name := range []string{t.CAFile, t.CertFile, t.KeyFile} {
		if name == "" {
			continue
		}
		if info, err := os.Stat(name); err == nil {
			all[i] = stamp{modified: info.ModTime(), size: info.Size()}
		}
	}
	return all
}
