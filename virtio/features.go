package virtio

// Feature bits of ring and transport (section 6). Devices own bits 0 to 23 and 50 and above.
const (
	F_INDIRECT_DESC = 28 // VIRTIO_F_INDIRECT_DESC: a descriptor may point at a table of descriptors (2.7.5.3)
	F_EVENT_IDX     = 29 // VIRTIO_F_EVENT_IDX: used_event and avail_event say when to notify (2.7.7, 2.7.10)
	F_VERSION_1     = 32 // VIRTIO_F_VERSION_1: not a legacy device
	F_RING_RESET    = 40 // VIRTIO_F_RING_RESET: one queue can be reset by itself (2.6.1)
)

// RingFeatures are the bits that Machine offers for every device.
const RingFeatures uint64 = 1<<F_INDIRECT_DESC | 1<<F_EVENT_IDX | 1<<F_VERSION_1 | 1<<F_RING_RESET

// reservedFeatures are bits 24 to 49, which a Device does not own (24 to 41 are in use by VIRTIO 1.2).
const reservedFeatures uint64 = (1<<50 - 1) &^ (1<<24 - 1)

// Device status bits (2.1).
const (
	StatusAcknowledge = 1   // ACKNOWLEDGE: the driver has seen the device
	StatusDriver      = 2   // DRIVER: it knows how to drive it
	StatusDriverOK    = 4   // DRIVER_OK: it is ready
	StatusFeaturesOK  = 8   // FEATURES_OK: feature negotiation is complete
	StatusNeedsReset  = 64  // DEVICE_NEEDS_RESET: the device has given up
	StatusFailed      = 128 // FAILED: the driver has given up
)

// Interrupt causes, as in the MMIO register InterruptStatus (4.2.2) and PCI's ISR status.
const (
	CauseQueue  = 1 // used buffer notification
	CauseConfig = 2 // configuration change notification
)

// Device types (5).
const (
	IDNet     = 1
	IDBlock   = 2
	IDConsole = 3
	IDEntropy = 4
	IDBalloon = 5
	IDVsock   = 19
	IDFS      = 26
	IDPmem    = 27
)

// MaxQueueSize is the largest size of a split queue (2.7).
const MaxQueueSize = 32768
