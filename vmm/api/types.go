package api

import "encoding/json"

// The bodies of requests and answers, as the API describes them. decode says how tags are read; the other way they are plain
// JSON, with null for what is not there, and can be read again.

type rateLimiter struct {
	Bandwidth *tokenBucket `json:"bandwidth"`
	Ops       *tokenBucket `json:"ops"`
}

// tokenBucket holds size tokens and gets as many in each refillTime, in milliseconds; before that it has oneTimeBurst more.
type tokenBucket struct {
	Size         uint64  `json:"size"`
	OneTimeBurst *uint64 `json:"one_time_burst"`
	RefillTime   uint64  `json:"refill_time"`
}

type bootSource struct {
	KernelImagePath string  `json:"kernel_image_path"`
	InitrdPath      *string `json:"initrd_path"`
	BootArgs        *string `json:"boot_args"`
}

type drive struct {
	DriveID      string       `json:"drive_id"`
	PartUUID     *string      `json:"partuuid"`
	IsRootDevice bool         `json:"is_root_device"`
	CacheType    *cacheType   `json:"cache_type"`
	IsReadOnly   *bool        `json:"is_read_only"`
	PathOnHost   *string      `json:"path_on_host"`
	RateLimiter  *rateLimiter `json:"rate_limiter"`
	IOEngine     *ioEngine    `json:"io_engine"`
	Socket       *string      `json:"socket"`
}

type drivePatch struct {
	DriveID     string       `json:"drive_id"`
	PathOnHost  *string      `json:"path_on_host"`
	RateLimiter *rateLimiter `json:"rate_limiter"`
}

type cacheType string

// cacheUnsafe has a disk without flushes: Firecracker's default.
const cacheUnsafe cacheType = "Unsafe"

func (cacheType) variants() []string { return []string{string(cacheUnsafe), "Writeback"} }

type ioEngine string

func (ioEngine) variants() []string { return []string{"Sync", "Async"} }

type pmem struct {
	ID          string       `json:"id"`
	PathOnHost  string       `json:"path_on_host"`
	RootDevice  bool         `json:"root_device" api:"optional"`
	ReadOnly    bool         `json:"read_only" api:"optional"`
	RateLimiter *rateLimiter `json:"rate_limiter"`
}

type pmemPatch struct {
	ID          string       `json:"id"`
	RateLimiter *rateLimiter `json:"rate_limiter"`
}

type networkInterface struct {
	IfaceID       string       `json:"iface_id"`
	HostDevName   string       `json:"host_dev_name"`
	GuestMAC      *string      `json:"guest_mac"`
	MTU           *uint16      `json:"mtu"`
	RXRateLimiter *rateLimiter `json:"rx_rate_limiter"`
	TXRateLimiter *rateLimiter `json:"tx_rate_limiter"`
}

type networkInterfacePatch struct {
	IfaceID       string       `json:"iface_id"`
	RXRateLimiter *rateLimiter `json:"rx_rate_limiter"`
	TXRateLimiter *rateLimiter `json:"tx_rate_limiter"`
}

type vsock struct {
	GuestCID uint32  `json:"guest_cid"`
	UDSPath  string  `json:"uds_path"`
	VsockID  *string `json:"vsock_id"` // deprecated
}

type entropy struct {
	RateLimiter *rateLimiter `json:"rate_limiter"`
}

type serial struct {
	SerialOutPath *string      `json:"serial_out_path"`
	RateLimiter   *tokenBucket `json:"rate_limiter"`
}

type balloon struct {
	AmountMiB             uint32 `json:"amount_mib"`
	DeflateOnOOM          bool   `json:"deflate_on_oom"`
	StatsPollingIntervalS uint16 `json:"stats_polling_interval_s" api:"optional"`
	FreePageHinting       bool   `json:"free_page_hinting" api:"optional"`
	FreePageReporting     bool   `json:"free_page_reporting" api:"optional"`
}

type balloonPatch struct {
	AmountMiB uint32 `json:"amount_mib"`
}

type balloonStatsPatch struct {
	StatsPollingIntervalS uint16 `json:"stats_polling_interval_s"`
}

type hintingStart struct {
	AcknowledgeOnStop bool `json:"acknowledge_on_stop" api:"optional"`
}

type machineConfig struct {
	VCPUCount       uint8        `json:"vcpu_count"`
	MemSizeMiB      uint64       `json:"mem_size_mib"`
	SMT             bool         `json:"smt" api:"optional"`
	CPUTemplate     *cpuTemplate `json:"cpu_template,omitempty"`
	TrackDirtyPages bool         `json:"track_dirty_pages" api:"optional"`
	HugePages       hugePages    `json:"huge_pages" api:"=None"`
}

type machineConfigPatch struct {
	VCPUCount       *uint8       `json:"vcpu_count"`
	MemSizeMiB      *uint64      `json:"mem_size_mib"`
	SMT             *bool        `json:"smt"`
	CPUTemplate     *cpuTemplate `json:"cpu_template"`
	TrackDirtyPages *bool        `json:"track_dirty_pages"`
	HugePages       *hugePages   `json:"huge_pages"`
}

type cpuTemplate string

const noTemplate cpuTemplate = "None"

func (cpuTemplate) variants() []string {
	return []string{"C3", "T2", "T2S", "T2CL", "T2A", "V1N1", string(noTemplate)}
}

type hugePages string

const (
	hugePagesNone        hugePages = "None"
	hugePagesTransparent hugePages = "Transparent"
	hugePages2M          hugePages = "2M"
)

func (hugePages) variants() []string {
	return []string{string(hugePagesNone), string(hugePagesTransparent), string(hugePages2M)}
}

type cpuConfig struct {
	KVMCapabilities []string          `json:"kvm_capabilities"`
	CPUIDModifiers  []cpuidModifier   `json:"cpuid_modifiers"`
	MSRModifiers    []msrModifier     `json:"msr_modifiers"`
	RegModifiers    []json.RawMessage `json:"reg_modifiers"` // of other architectures, as the next
	VCPUFeatures    []json.RawMessage `json:"vcpu_features"`
}

type cpuidModifier struct {
	Leaf      string             `json:"leaf"`
	Subleaf   string             `json:"subleaf"`
	Flags     uint32             `json:"flags"`
	Modifiers []registerModifier `json:"modifiers"`
}

type registerModifier struct {
	Register cpuidRegister `json:"register"`
	Bitmap   string        `json:"bitmap"`
}

type cpuidRegister string

func (cpuidRegister) variants() []string { return []string{"eax", "ebx", "ecx", "edx"} }

type msrModifier struct {
	Addr   string `json:"addr"`
	Bitmap string `json:"bitmap"`
}

type loggerConfig struct {
	LogPath       *string `json:"log_path"`
	Level         *string `json:"level"`
	ShowLevel     *bool   `json:"show_level"`
	ShowLogOrigin *bool   `json:"show_log_origin"`
	Module        *string `json:"module"`
}

type metricsConfig struct {
	MetricsPath string            `json:"metrics_path"`
	EmitID      bool              `json:"emit_id" api:"optional"`
	Properties  map[string]string `json:"properties,omitempty" api:"optional"`
}

type mmdsConfig struct {
	Version           mmdsVersion `json:"version" api:"=V1"`
	NetworkInterfaces []string    `json:"network_interfaces"`
	IPv4Address       *string     `json:"ipv4_address"`
	IMDSCompat        bool        `json:"imds_compat" api:"optional"`
}

type mmdsVersion string

const (
	mmdsV1 mmdsVersion = "V1"
	mmdsV2 mmdsVersion = "V2"
)

func (mmdsVersion) variants() []string { return []string{string(mmdsV1), string(mmdsV2)} }

type action struct {
	ActionType actionType `json:"action_type"`
}

type actionType string

const (
	actionFlushMetrics   actionType = "FlushMetrics"
	actionInstanceStart  actionType = "InstanceStart"
	actionSendCtrlAltDel actionType = "SendCtrlAltDel"
)

func (actionType) variants() []string {
	return []string{string(actionFlushMetrics), string(actionInstanceStart), string(actionSendCtrlAltDel)}
}

type vmState struct {
	State vmStateName `json:"state"`
}

type vmStateName string

const (
	vmPaused  vmStateName = "Paused"
	vmResumed vmStateName = "Resumed"
)

func (vmStateName) variants() []string { return []string{string(vmPaused), string(vmResumed)} }

type snapshotCreate struct {
	MemFilePath  string        `json:"mem_file_path"`
	SnapshotPath string        `json:"snapshot_path"`
	SnapshotType *snapshotType `json:"snapshot_type"`
}

type snapshotType string

func (snapshotType) variants() []string { return []string{"Full", "Diff"} }

type snapshotLoad struct {
	SnapshotPath        string            `json:"snapshot_path"`
	MemFilePath         *string           `json:"mem_file_path"` // deprecated
	MemBackend          *memoryBackend    `json:"mem_backend"`
	EnableDiffSnapshots bool              `json:"enable_diff_snapshots" api:"optional"` // deprecated
	TrackDirtyPages     bool              `json:"track_dirty_pages" api:"optional"`
	ResumeVM            bool              `json:"resume_vm" api:"optional"`
	NetworkOverrides    []networkOverride `json:"network_overrides"`
	VsockOverride       *vsockOverride    `json:"vsock_override"`
	ClockRealtime       bool              `json:"clock_realtime" api:"optional"`
	HugePages           *snapshotPages    `json:"huge_pages"`
}

type memoryBackend struct {
	BackendType backendType `json:"backend_type"`
	BackendPath string      `json:"backend_path"`
}

type backendType string

const backendUffd backendType = "Uffd"

func (backendType) variants() []string { return []string{"File", string(backendUffd)} }

type networkOverride struct {
	IfaceID     string `json:"iface_id"`
	HostDevName string `json:"host_dev_name"`
}

type vsockOverride struct {
	UDSPath string `json:"uds_path"`
}

type snapshotPages string

func (snapshotPages) variants() []string {
	return []string{"Snapshot", string(hugePagesNone), string(hugePagesTransparent), string(hugePages2M)}
}

type instanceInfo struct {
	ID         string `json:"id"`
	State      string `json:"state"`
	VMMVersion string `json:"vmm_version"`
	AppName    string `json:"app_name"`
}

// fullConfig is a whole machine: the answer of /vm/config, and a configuration file.
type fullConfig struct {
	Balloon           *balloon           `json:"balloon"`
	Drives            []drive            `json:"drives"`
	BootSource        *bootSource        `json:"boot-source"`
	CPUConfig         *json.RawMessage   `json:"cpu-config"` // in a file, a path or the template itself
	Logger            *loggerConfig      `json:"logger"`
	MachineConfig     *machineConfig     `json:"machine-config"`
	Metrics           *metricsConfig     `json:"metrics"`
	MemoryHotplug     *json.RawMessage   `json:"memory-hotplug"`
	MMDSConfig        *mmdsConfig        `json:"mmds-config"`
	NetworkInterfaces []networkInterface `json:"network-interfaces"`
	Pmem              []pmem             `json:"pmem"`
	Serial            *serial            `json:"serial"`
	Vsock             *vsock             `json:"vsock"`
	Entropy           *entropy           `json:"entropy"`
}

// balloonStats is the answer of /balloon/statistics. What the guest has not reported is not there.
type balloonStats struct {
	TargetPages        uint64  `json:"target_pages"`
	ActualPages        uint64  `json:"actual_pages"`
	TargetMiB          uint64  `json:"target_mib"`
	ActualMiB          uint64  `json:"actual_mib"`
	SwapIn             *uint64 `json:"swap_in,omitempty"`
	SwapOut            *uint64 `json:"swap_out,omitempty"`
	MajorFaults        *uint64 `json:"major_faults,omitempty"`
	MinorFaults        *uint64 `json:"minor_faults,omitempty"`
	FreeMemory         *uint64 `json:"free_memory,omitempty"`
	TotalMemory        *uint64 `json:"total_memory,omitempty"`
	AvailableMemory    *uint64 `json:"available_memory,omitempty"`
	DiskCaches         *uint64 `json:"disk_caches,omitempty"`
	HugetlbAllocations *uint64 `json:"hugetlb_allocations,omitempty"`
	HugetlbFailures    *uint64 `json:"hugetlb_failures,omitempty"`
	OOMKill            *uint64 `json:"oom_kill,omitempty"`
	AllocStall         *uint64 `json:"alloc_stall,omitempty"`
	AsyncScan          *uint64 `json:"async_scan,omitempty"`
	DirectScan         *uint64 `json:"direct_scan,omitempty"`
	AsyncReclaim       *uint64 `json:"async_reclaim,omitempty"`
	DirectReclaim      *uint64 `json:"direct_reclaim,omitempty"`
}
