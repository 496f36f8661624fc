package engine

// ImageConfig is what an image says about how to run it: the "config" object of
// the OCI image specification, of which hull uses these members.
type ImageConfig struct {
	User       string              `json:"User,omitempty"`
	Env        []string            `json:"Env,omitempty"`
	Entrypoint []string            `json:"Entrypoint,omitempty"`
	Cmd        []string            `json:"Cmd,omitempty"`
	WorkingDir string              `json:"WorkingDir,omitempty"`
	Volumes    map[string]struct{} `json:"Volumes,omitempty"`
	Labels     map[string]string   `json:"Labels,omitempty"`
	StopSignal string              `json:"StopSignal,omitempty"`

	Healthcheck  *HealthCheck        `json:"Healthcheck,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"` // "80/tcp"
}
