package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/hullvm/hull/images"
)

// hub is the registry that docker means when none is named.
const hub = "docker.io"

func newLogin(a *app) *cobra.Command {
	var f loginFlags
	cmd := &cobra.Command{
		Use:   "login [OPTIONS] [SERVER]",
		Short: "Log in to a registry",
		Long: `Try a name and a password with a registry, docker.io if none is named, and keep them
for pull and push, where docker keeps them: in ~/.docker/config.json, or with the
credential helper that is configured there.`,
		Example: `  hull login registry.example
  hull login -u me --password-stdin registry.example:5000 < token`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return login(a, cmd, f, args)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.user, "username", "u", "", "`Name` of the user")
	flags.StringVarP(&f.password, "password", "p", "", "The password; others on this host can see it, --password-stdin is better")
	flags.BoolVar(&f.stdin, "password-stdin", false, "Read the password from standard input")
	flags.BoolVar(&f.insecure, "insecure", false, "Allow plain HTTP and unknown certificates")
	return cmd
}

type loginFlags struct {
	user, password  string
	stdin, insecure bool
}

func login(a *app, cmd *cobra.Command, f loginFlags, args []string) error {
	server := serverOf(args)
	if f.password != "" {
		a.say("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
		if f.stdin {
			return errors.New("--password and --password-stdin are mutually exclusive")
		}
	}
	if f.stdin {
		if f.user == "" {
			return errors.New("must provide --username with --password-stdin")
		}
		password, err := readPassword(a.stdin)
		if err != nil {
			return err
		}
		f.password = password
	}
	file, err := dockerConfig(a)
	if err != nil {
		return err
	}
	kept := file.GetCredentialsStore(server.key)
	ctx, stop := interruptible(cmd)
	defer stop()
	if f.user == "" && f.password == "" {
		known, err := kept.Get(server.key)
		if err == nil && (known.Username != "" && known.Password != "" || known.IdentityToken != "") {
			fmt.Fprintf(a.stdout, "Authenticating with existing credentials... [Username: %s]\n", clean(known.Username))
			err := server.check(ctx, known, f.insecure)
			if err == nil {
				fmt.Fprintln(a.stdout, "Login Succeeded")
			}
			if err == nil || !errors.Is(err, images.ErrDenied) || !isTerminal(a.stdin) {
				return err
			}
			a.say("Login did not succeed, error: %s", message(err))
		}
	}
	if err := f.ask(ctx, a); err != nil {
		return err
	}
	auth := types.AuthConfig{Username: f.user, Password: f.password, ServerAddress: server.key}
	if err := server.check(ctx, auth, f.insecure); err != nil {
		return err
	}
	if err := kept.Store(auth); err != nil {
		return fmt.Errorf("error saving credentials: %w", err)
	}
	fmt.Fprintln(a.stdout, "Login Succeeded")
	return nil
}

// ask asks a user at a terminal for what is missing.
func (f *loginFlags) ask(ctx context.Context, a *app) error {
	if f.user != "" && f.password != "" {
		return nil
	}
	if !isTerminal(a.stdin) {
		return errors.New("cannot perform an interactive login from a non TTY device; use -u and --password-stdin")
	}
	if f.user == "" {
		name, err := a.prompt(ctx, "Username: ", true)
		if err != nil {
			return fmt.Errorf("reading the name: %w", err)
		}
		if f.user = strings.TrimSpace(name); f.user == "" {
			return errors.New("non-null Username Required")
		}
	}
	if f.password == "" {
		password, err := a.prompt(ctx, "Password: ", false)
		fmt.Fprintln(a.stdout)
		if err != nil {
			return fmt.Errorf("reading the password: %w", err)
		}
		if f.password = password; f.password == "" {
			return errors.New("password is empty")
		}
	}
	return nil
}

// prompt asks something at the terminal, which shows what is typed if echo is set, or not from before the question on: who
// types fast is not shown either. An interrupt ends that. The terminal is left as it was: what reads
// changes nothing of it, since it may only come to run after the interrupt.
func (a *app) prompt(ctx context.Context, question string, echo bool) (_ string, err error) {
	fd := int(a.stdin.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, term.Restore(fd, before)) }()
	if !echo {
		settings, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return "", err
		}
		settings.Lflag &^= unix.ECHO
		if err := unix.IoctlSetTermios(fd, unix.TCSETS, settings); err != nil {
			return "", err
		}
	}
	fmt.Fprint(a.stdout, question)
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		in := bufio.NewScanner(a.stdin)
		in.Scan()
		answers <- answer{in.Text(), in.Err()}
	}()
	select {
	case got := <-answers:
		return got.text, got.err
	case <-ctx.Done():
		fmt.Fprintln(a.stdout)
		return "", ctx.Err()
	}
}

// readPassword reads all of a stream, without the end of its last line.
func readPassword(in io.Reader) (string, error) {
	const most = 64 << 10
	b, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	if len(b) > most {
		return "", fmt.Errorf("the password is longer than %d bytes", most)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if password == "" {
		return "", errors.New("password is empty")
	}
	return password, nil
}

func newLogout(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "logout [SERVER]",
		Short:   "Log out of a registry",
		Long:    "Forget the name and the password that hull login or docker login have kept for a registry, docker.io if none is named.",
		Example: "  hull logout registry.example",
		Args:    maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			server := serverOf(args)
			file, err := dockerConfig(a)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "Removing login credentials for %s\n", server.domain)
			// A helper may fail for what it does not have.
			var errs []error
			for _, key := range server.keys() {
				if err := file.GetCredentialsStore(key).Erase(key); err != nil {
					errs = append(errs, err)
				}
			}
			if len(errs) == len(server.keys()) {
				return fmt.Errorf("could not erase credentials: %w", errors.Join(errs...))
			}
			return nil
		},
	}
}

// server is a registry that one can log in to.
type server struct {
	domain string // "docker.io", "registry.example:5000"
	key    string // under which docker keeps what is known of it
}

// serverOf reads the argument, a host or, as docker once had it, a URL.
func serverOf(args []string) server {
	s := server{domain: hub}
	if len(args) > 0 && args[0] != "" {
		s.domain = credentials.ConvertToHostname(args[0])
	}
	s.key = s.domain
	if s.domain == hub || s.domain == "index.docker.io" || s.domain == "registry-1.docker.io" {
		s.domain, s.key = hub, authn.DefaultAuthKey
	}
	return s
}

// keys are all under which something may be kept of it.
func (s server) keys() []string {
	if s.domain == hub {
		return []string{s.key}
	}
	return []string{s.key, "http://" + s.domain, "https://" + s.domain}
}

// check asks the registry whether it takes credentials.
func (s server) check(ctx context.Context, c types.AuthConfig, insecure bool) error {
	return images.CheckLogin(ctx, s.domain, authn.AuthConfig{
		Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
	}, insecure)
}

// dockerConfig reads ~/.docker/config.json, or that in $DOCKER_CONFIG.
func dockerConfig(a *app) (*configfile.ConfigFile, error) {
	file, err := config.Load(a.getenv(config.EnvOverrideConfigDir))
	if err != nil {
		return nil, fmt.Errorf("reading docker's configuration: %w", err)
	}
	// As docker does: a helper that is there by default is used where nothing else is.
	if !file.ContainsAuth() {
		file.CredentialsStore = credentials.DetectDefaultStore(file.CredentialsStore)
	}
	return file, nil
}

// deniedHint says what to do when a registry wants credentials, or other ones.
func deniedHint(err error, ref images.Reference) error {
	if !errors.Is(err, images.ErrDenied) {
		return err
	}
	return fmt.Errorf("%w; this may need 'hull login %s'", err, ref.Domain)
}
