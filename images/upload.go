package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// upload brings one blob of the store into a repository (OCI distribution-spec,
// "Pushing blobs").
type upload struct {
	client *registryClient
	path   string // of the file
	want   v1.Descriptor
	mount  string // another repository of the registry that should have it; may be empty
	report *reporter
}

// run sends the blob unless the registry has it.
func (u *upload) run(ctx context.Context) error {
	again := func(err error) { u.report.report(PhaseRetrying, 0, u.want.Size, err.Error()) }
	return u.client.net.retry(ctx, again, func() error {
		there, err := u.exists(ctx)
		if err != nil {
			return err
		}
		if there {
			u.report.report(PhaseThere, u.want.Size, u.want.Size, "")
			return nil
		}
		session, mounted, err := u.begin(ctx)
		if err != nil {
			return err
		}
		if mounted {
			u.report.report(PhaseMounted, u.want.Size, u.want.Size, u.mount)
			return nil
		}
		if session, err = u.send(ctx, session); err != nil {
			return err
		}
		if err := u.commit(ctx, session); err != nil {
			return err
		}
		u.report.report(PhasePushed, u.want.Size, u.want.Size, "")
		return nil
	})
}

// exists asks whether the repository has the blob.
func (u *upload) exists(ctx context.Context) (bool, error) {
	c := u.client
	resp, err := c.do(ctx, request{method: http.MethodHead, url: c.url("blobs/" + u.want.Digest.String())}, http.StatusOK, http.StatusNotFound)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK, nil
}

// begin asks for a place to send the blob to, or for a mount.
func (u *upload) begin(ctx context.Context) (session *url.URL, mounted bool, err error) {
	if u.mount != "" {
		session, mounted, err = u.post(ctx, url.Values{"mount": {u.want.Digest.String()}, "from": {u.mount}})
		if err == nil || isTransient(err) || ctx.Err() != nil {
			return session, mounted, err
		}
		// The other repository is gone, or closed to this user: send the blob.
	}
	return u.post(ctx, nil)
}

func (u *upload) post(ctx context.Context, query url.Values) (session *url.URL, mounted bool, err error) {
	c := u.client
	to := c.url("blobs/uploads/")
	to.RawQuery = query.Encode()
	resp, err := c.do(ctx, request{method: http.MethodPost, url: to}, http.StatusCreated, http.StatusAccepted)
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusCreated {
		if query == nil {
			return nil, false, fmt.Errorf("the registry took a layer before it was sent: %w", ErrRegistry)
		}
		return nil, true, nil
	}
	session, err = location(resp)
	return session, false, err
}

// location is where an answer says that an upload goes on.
func location(resp *http.Response) (*url.URL, error) {
	to, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("the registry does not say where to send a layer: %w: %w", err, ErrRegistry)
	}
	return to, nil
}

// send sends the contents, and checks on the way that they are what they should be.
func (u *upload) send(ctx context.Context, session *url.URL) (*url.URL, error) {
	f, err := os.Open(u.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body := &checkedReader{r: u.report.reader(withContext(ctx, f), PhasePushing, u.want.Size), sum: newHasher(), want: u.want}
	resp, err := u.client.do(ctx, request{
		method: http.MethodPatch, url: session, body: body, length: u.want.Size,
		header: http.Header{"Content-Type": {"application/octet-stream"}},
	}, http.StatusAccepted, http.StatusNoContent, http.StatusCreated)
	if err == nil {
		defer resp.Body.Close()
	}
	if body.err != nil {
		return nil, body.err
	}
	if err != nil {
		return nil, err
	}
	return location(resp)
}

// commit makes what was sent a blob of the repository.
func (u *upload) commit(ctx context.Context, session *url.URL) error {
	query := session.Query()
	query.Set("digest", u.want.Digest.String())
	session.RawQuery = query.Encode()
	resp, err := u.client.do(ctx, request{
		method: http.MethodPut, url: session, header: http.Header{"Content-Type": {"application/octet-stream"}},
	}, http.StatusCreated, http.StatusNoContent)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// checkedReader reads a blob of the store, which must be what its name says: the
// error is ErrDigest.
type checkedReader struct {
	r    io.Reader
	sum  *hasher
	want v1.Descriptor
	err  error // what went wrong with the blob
}

func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.sum.Write(p[:n])
	switch {
	case c.sum.n > c.want.Size:
		c.err = fmt.Errorf("blob %s in the store: more than %d bytes: %w", c.want.Digest, c.want.Size, ErrDigest)
	case err == io.EOF || err == nil && c.sum.n == c.want.Size:
		// Whoever knows the length may not read to the end.
		if cerr := c.sum.check(c.want.Digest, c.want.Size); cerr != nil {
			c.err = fmt.Errorf("blob %s in the store: %w", c.want.Digest, cerr)
		}
	case err != nil && !errors.Is(err, context.Canceled):
		c.err = err
	}
	if c.err != nil {
		return 0, c.err
	}
	return n, err
}

// putManifest gives the repository a manifest, whose parts it has, under a tag.
func (c *registryClient) putManifest(ctx context.Context, tag string, d v1.Descriptor, raw []byte) error {
	return c.net.retry(ctx, nil, func() error {
		resp, err := c.do(ctx, request{
			method: http.MethodPut, url: c.url("manifests/" + tag), body: bytes.NewReader(raw), length: d.Size,
			header: http.Header{"Content-Type": {string(d.MediaType)}},
		}, http.StatusCreated, http.StatusOK, http.StatusAccepted)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != d.Digest.String() {
			return fmt.Errorf("the registry has the manifest under digest %s instead of %s: %w", shorten(got), d.Digest, ErrDigest)
		}
		return nil
	})
}
