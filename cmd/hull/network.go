package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
)

func newNetwork(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "network",
		Short: "Manage networks",
		Long: `Manage networks. Containers on a network reach one another, by their names too; containers
on different networks, or on the default one, do not. It needs no privileges, but for
networks of the driver bridge.`,
		Example: `  hull network create web
  hull run -d --name db --network web uroot sleep 1000
  hull run --rm --network web uroot ping -c 1 db`,
		Args: cobra.ArbitraryArgs,
		RunE: subcommand,
	}
	addSubcommands(cmd, newNetworkCreate(a), newNetworkList(a), newNetworkInspect(a), newNetworkConnect(a),
		newNetworkDisconnect(a), newNetworkRemove(a), newNetworkPrune(a))
	return cmd
}

// subcommand is what a command that only has others does: it shows them.
func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{cmd.CommandPath(), fmt.Errorf("%q is not a %s command", args[0], cmd.CommandPath())}
	}
	return cmd.Help()
}

func addSubcommands(cmd *cobra.Command, list ...*cobra.Command) {
	for _, c := range list {
		c.DisableFlagsInUseLine = true
		cmd.AddCommand(c)
	}
}

func newNetworkCreate(a *app) *cobra.Command {
	var driver, scope string
	var subnets, gateways, ranges, labels, options []string
	var internal, ipv6 bool
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] NETWORK",
		Short: "Create a network",
		Long: `Create a network. Its addresses are chosen if they are not given.

With the driver user, containers have a network stack in a process of this host's, and a card
that no frame but their own comes from. With the driver bridge, which takes root and the program
nft, they have a tap interface each on a bridge of this host, whose kernel routes, translates
addresses and publishes ports: packets go through no process, whoever connects from outside is seen
by the address that it has, and this host reaches containers by theirs. This host forwards packets
while there is such a network.

Options of bridge:
  com.docker.network.bridge.name=NAME                    the interface; br-ID unless given
  com.docker.network.driver.mtu=BYTES                    1500 unless given
  com.docker.network.bridge.enable_ip_masquerade=false   known to the world by their own addresses
  com.docker.network.bridge.enable_icc=false             containers do not reach one another`,
		Example: `  hull network create web
  hull network create --subnet 10.5.0.0/16 --ip-range 10.5.1.0/24 --ipv6 front
  hull network create --internal back`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n := engine.Network{Name: args[0], Driver: driver, Internal: internal}
			if scope != "" && scope != "local" {
				return fmt.Errorf("--scope %q: networks are of this host: local", scope)
			}
			var err error
			if n.IPv4, n.IPv6, err = parsePools(subnets, gateways, ranges); err != nil {
				return err
			}
			if ipv6 && !n.IPv6.Subnet.IsValid() {
				n.IPv6 = engine.RandomPool6()
			}
			if n.Labels, err = parseLabels(labels); err != nil {
				return err
			}
			if n.Options, err = parseOptions(options); err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			made, err := e.CreateNetwork(cmd.Context(), n)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, made.ID)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&driver, "driver", "d", engine.DriverUser, "`Driver` of the network: user, which needs no privileges, or bridge")
	f.StringArrayVar(&subnets, "subnet", nil, "Addresses of the network: a `prefix` such as 10.5.0.0/16; one of IPv4, one of IPv6")
	f.StringArrayVar(&gateways, "gateway", nil, "`Address` of the gateway; the subnet's first unless given")
	f.StringArrayVar(&ranges, "ip-range", nil, "Give containers addresses of this `prefix` only")
	f.BoolVar(&internal, "internal", false, "Let containers reach one another, and nothing else")
	f.BoolVar(&ipv6, "ipv6", false, "Give the network IPv6 addresses too")
	f.StringArrayVar(&labels, "label", nil, "Set a `label`: KEY or KEY=value")
	f.StringArrayVarP(&options, "opt", "o", nil, "Set an `option` of the driver: KEY=value")
	f.Bool("attachable", false, "Accepted for docker's sake")
	f.StringVar(&scope, "scope", "", "`Scope` of the network: local")
	return cmd
}

// parsePools puts the pools of a network together: a gateway and a range belong to the subnet of their family.
func parsePools(subnets, gateways, ranges []string) (v4, v6 engine.Pool, err error) {
	pool := func(a netip.Addr) *engine.Pool {
		if a.Is4() {
			return &v4
		}
		return &v6
	}
	prefixes := func(flag string, list []string, field func(*engine.Pool) *netip.Prefix) error {
		for _, s := range list {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return fmt.Errorf("--%s %q: want a prefix such as 10.5.0.0/16", flag, s)
			}
			at := field(pool(p.Addr()))
			if at.IsValid() {
				return fmt.Errorf("--%s %s: there is another of its family", flag, s)
			}
			*at = p
		}
		return nil
	}
	if err := prefixes("subnet", subnets, func(p *engine.Pool) *netip.Prefix { return &p.Subnet }); err != nil {
		return v4, v6, err
	}
	if err := prefixes("ip-range", ranges, func(p *engine.Pool) *netip.Prefix { return &p.Range }); err != nil {
		return v4, v6, err
	}
	for _, s := range gateways {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return v4, v6, fmt.Errorf("--gateway %q: not an IP address", s)
		}
		if p := pool(addr); p.Gateway.IsValid() {
			return v4, v6, fmt.Errorf("--gateway %s: there is another of its family", s)
		} else {
			p.Gateway = addr
		}
	}
	return v4, v6, nil
}

// parseLabels reads what --label takes of things that are not containers.
func parseLabels(given []string) (map[string]string, error) {
	if len(given) == 0 {
		return nil, nil
	}
	labels := make(map[string]string)
	for _, entry := range given {
		key, value, _ := strings.Cut(entry, "=")
		if key == "" {
			return nil, fmt.Errorf("invalid label %q: it has no key", entry)
		}
		labels[key] = value
	}
	return labels, nil
}

// parseOptions reads what --opt takes.
func parseOptions(given []string) (map[string]string, error) {
	options, err := parseLabels(given)
	if err != nil {
		return nil, fmt.Errorf("--opt: %w", err)
	}
	return options, nil
}

func newNetworkList(a *app) *cobra.Command {
	var quiet, noTrunc bool
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List networks",
		Long:    "List networks: those that were made, and those that are always there.",
		Example: `  hull network ls
  hull network ls -q --filter type=custom`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			fits, err := networkFilter(filters)
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			all, err := e.Networks(cmd.Context())
			if err != nil {
				return err
			}
			slices.SortStableFunc(all, func(a, b *engine.Network) int { return strings.Compare(a.Name, b.Name) })
			var rows []row
			for _, n := range all {
				if fits(n) {
					rows = append(rows, networkRow(n, noTrunc))
				}
			}
			if quiet {
				for _, r := range rows {
					fmt.Fprintln(a.stdout, r["ID"])
				}
				return nil
			}
			return writeFormat(a.stdout, format, []column{{"NETWORK ID", "ID"}, {"NAME", "Name"}, {"DRIVER", "Driver"}, {"SCOPE", "Scope"}}, rows,
				column{"IPV4", "IPv4"}, column{"IPV6", "IPv6"}, column{"INTERNAL", "Internal"}, column{"LABELS", "Labels"}, column{"CREATED AT", "CreatedAt"})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Show IDs only")
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not shorten what is shown")
	f.StringVar(&format, "format", "", "\"table\", \"json\" or a Go `template`")
	f.StringArrayVarP(&filters, "filter", "f", nil, "Show those that fit only: name=, id=, driver=, label=, scope=, type=custom or builtin")
	return cmd
}

func networkRow(n *engine.Network, noTrunc bool) row {
	id := n.ID
	if !noTrunc {
		id = engine.ShortID(id)
	}
	one := row{
		"ID": id, "Name": n.Name, "Driver": n.Driver, "Scope": "local", "IPv4": "true",
		"IPv6": strconv.FormatBool(n.IPv6.Subnet.IsValid()), "Internal": strconv.FormatBool(n.Internal),
		"CreatedAt": n.Created.Format("2006-01-02 15:04:05.999999999 -0700 MST"),
	}
	one.setLabels(n.Labels)
	return one
}

func networkFilter(filters []string) (func(*engine.Network) bool, error) {
	return filter(filters, map[string]func(*engine.Network, string) bool{
		"name":   func(n *engine.Network, v string) bool { return strings.Contains(n.Name, v) },
		"id":     func(n *engine.Network, v string) bool { return strings.HasPrefix(n.ID, v) },
		"driver": func(n *engine.Network, v string) bool { return n.Driver == v },
		"scope":  func(n *engine.Network, v string) bool { return v == "local" },
		"type": func(n *engine.Network, v string) bool {
			return v == map[bool]string{true: "builtin", false: "custom"}[n.Predefined()]
		},
		"label": func(n *engine.Network, v string) bool { return hasLabel(n.Labels, v) },
	})
}

func newNetworkInspect(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NETWORK [NETWORK...]",
		Short: "Show all about networks",
		Long:  "Show all about networks, and who is on them, as JSON.",
		Example: `  hull network inspect web
  hull network inspect --format '{{range .IPAM.Config}}{{.Subnet}}{{end}}' web`,
		Args:              minArgs(1),
		ValidArgsFunction: completeNetworks(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			return inspect(a, cmd, args, format, inspectNetworks(a, cmd).get)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "\"json\" or a Go `template`")
	cmd.Flags().BoolP("verbose", "v", false, "Accepted for docker's sake")
	return cmd
}

// networkJSON is a network as docker's inspect shows it.
type networkJSON struct {
	Name       string
	ID         string `json:"Id"`
	Created    string
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       ipamJSON
	Internal   bool
	Attachable bool
	Ingress    bool
	ConfigFrom struct{ Network string }
	ConfigOnly bool
	Containers map[string]memberJSON
	Options    map[string]string
	Labels     map[string]string
}

type ipamJSON struct {
	Driver  string
	Options map[string]string
	Config  []poolJSON
}

type poolJSON struct {
	Subnet  string
	IPRange string `json:",omitempty"`
	Gateway string
}

type memberJSON struct {
	Name        string
	EndpointID  string
	MacAddress  string
	IPv4Address string
	IPv6Address string
}

func describeNetwork(n *engine.Network, members []engine.Member) networkJSON {
	d := networkJSON{
		Name: n.Name, ID: n.ID, Created: n.Created.Format(timeFormat), Scope: "local", Driver: n.Driver, EnableIPv4: true,
		EnableIPv6: n.IPv6.Subnet.IsValid(), IPAM: ipamJSON{Driver: "default", Config: []poolJSON{}}, Internal: n.Internal,
		Containers: map[string]memberJSON{}, Options: orEmpty(n.Options), Labels: orEmpty(n.Labels),
	}
	for _, p := range []engine.Pool{n.IPv4, n.IPv6} {
		if p.Subnet.IsValid() {
			pool := poolJSON{Subnet: p.Subnet.String(), Gateway: p.Gateway.String()}
			if p.Range.IsValid() {
				pool.IPRange = p.Range.String()
			}
			d.IPAM.Config = append(d.IPAM.Config, pool)
		}
	}
	for _, m := range members {
		c := memberJSON{Name: m.Name, MacAddress: m.MAC.String(), IPv4Address: netip.PrefixFrom(m.IPv4, n.IPv4.Subnet.Bits()).String()}
		if m.IPv6.IsValid() {
			c.IPv6Address = netip.PrefixFrom(m.IPv6, n.IPv6.Subnet.Bits()).String()
		}
		d.Containers[m.Container] = c
	}
	return d
}

func newNetworkConnect(a *app) *cobra.Command {
	var ep engine.Endpoint
	var ip, ip6, mac string
	cmd := &cobra.Command{
		Use:   "connect [OPTIONS] NETWORK CONTAINER",
		Short: "Put a container that does not run on one more network",
		Long: `Put a container on one more network: it has one more network card when it is started. The cards of
a VM are put in when it starts, so the container must not be running.`,
		Example:           `  hull network connect --alias db web box`,
		Args:              exactArgs(2),
		ValidArgsFunction: completeInOrder(completeNetworks(a), completeContainers(a), cobra.NoFileCompletions),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, given := range []struct {
				flag, value string
				is4         bool
			}{{"--ip", ip, true}, {"--ip6", ip6, false}} {
				if given.value != "" {
					if err := setAddress(&ep, given.flag, given.value, given.is4); err != nil {
						return err
					}
				}
			}
			if mac != "" {
				var err error
				if ep.MAC, err = engine.ParseMAC(mac); err != nil {
					return fmt.Errorf("--mac-address: %w", err)
				}
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.Connect(cmd.Context(), args[0], args[1], ep)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&ep.Aliases, "alias", nil, "Another `name` of the container on the network")
	f.StringVar(&ip, "ip", "", "IPv4 `address`")
	f.StringVar(&ip6, "ip6", "", "IPv6 `address`")
	f.StringVar(&mac, "mac-address", "", "MAC `address` of the network card")
	return cmd
}

func newNetworkDisconnect(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "disconnect [OPTIONS] NETWORK CONTAINER",
		Short:             "Take a container that does not run off a network",
		Long:              "Take a container off a network. It must not be running: see hull network connect.",
		Example:           `  hull network disconnect web box`,
		Args:              exactArgs(2),
		ValidArgsFunction: completeInOrder(completeNetworks(a), completeContainers(a), cobra.NoFileCompletions),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.Disconnect(cmd.Context(), args[0], args[1])
		},
	}
	cmd.Flags().BoolP("force", "f", false, "Accepted for docker's sake")
	return cmd
}

func newNetworkRemove(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] NETWORK [NETWORK...]",
		Aliases:           []string{"remove"},
		Short:             "Remove networks",
		Long:              "Remove networks that no running container is on.",
		Example:           `  hull network rm web`,
		Args:              minArgs(1),
		ValidArgsFunction: completeNetworks(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return each(a, cmd, args, func(ref string) error {
				_, err := e.RemoveNetwork(cmd.Context(), ref)
				return removed(a, cmd, ref, err, force, engine.ErrNoNetwork)
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not fail when there is no such network")
	return cmd
}

func newNetworkPrune(a *app) *cobra.Command {
	var force bool
	var filters []string
	cmd := &cobra.Command{
		Use:     "prune [OPTIONS]",
		Short:   "Remove networks that no container is on",
		Long:    "Remove all networks that no container is on, running or not.",
		Example: `  hull network prune -f --filter until=24h`,
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			fits, err := pruneFilter(filters, func(n *engine.Network) pruned { return pruned{n.Created, n.Labels} })
			if err != nil {
				return err
			}
			if !force {
				if yes, err := confirm(a, "WARNING! This will remove all custom networks not used by at least one container."); err != nil || !yes {
					return err
				}
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			gone, err := e.PruneNetworks(cmd.Context(), fits)
			if len(gone) > 0 {
				fmt.Fprintln(a.stdout, "Deleted Networks:")
				for _, n := range gone {
					fmt.Fprintln(a.stdout, n.Name)
				}
				fmt.Fprintln(a.stdout)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "Do not ask")
	f.StringArrayVar(&filters, "filter", nil, "Remove those that fit only: until=, label=, label!=")
	return cmd
}
