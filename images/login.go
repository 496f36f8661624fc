package images

import (
	"context"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
)

// CheckLogin asks a registry, such as "docker.io" or "localhost:5000", whether it
// takes these credentials. insecure is as for Pull. The errors are ErrDenied,
// ErrReference and ErrRegistry.
func CheckLogin(ctx context.Context, domain string, credentials authn.AuthConfig, insecure bool) error {
	if !validDomain(domain) {
		return fmt.Errorf("registry %q: it is not a host name or address with an optional port: %w", shorten(domain), ErrReference)
	}
	registry, err := registryOf(domain, insecure)
	if err != nil {
		return err
	}
	client, err := defaultNetwork().connect(ctx, registry, authn.FromConfig(credentials), insecure, nil)
	if err != nil {
		return err
	}
	defer client.close()
	// One that asks for a name and a password, and not for a token, has not been asked yet.
	resp, err := client.get(ctx, "", http.Header{}, http.StatusOK)
	if err != nil {
		return fmt.Errorf("registry %s: %w", domain, err)
	}
	return resp.Body.Close()
}
