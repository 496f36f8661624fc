package kvm

// Ioctl numbers, by their names in include/uapi/linux/kvm.h. Bits 16–29 of a
// number hold the size of its argument: a test compares them with the Go
// structs.
const (
	KVM_GET_API_VERSION        = 0xae00
	KVM_CREATE_VM              = 0xae01
	KVM_GET_MSR_INDEX_LIST     = 0xc004ae02
	KVM_CHECK_EXTENSION        = 0xae03
	KVM_GET_VCPU_MMAP_SIZE     = 0xae04
	KVM_GET_SUPPORTED_CPUID    = 0xc008ae05
	KVM_CREATE_VCPU            = 0xae41
	KVM_GET_DIRTY_LOG          = 0x4010ae42
	KVM_SET_USER_MEMORY_REGION = 0x4020ae46
	KVM_SET_TSS_ADDR           = 0xae47
	KVM_SET_IDENTITY_MAP_ADDR  = 0x4008ae48
	KVM_CREATE_IRQCHIP         = 0xae60
	KVM_IRQ_LINE               = 0x4008ae61
	KVM_GET_IRQCHIP            = 0xc208ae62
	KVM_SET_IRQCHIP            = 0x8208ae63
	KVM_SET_GSI_ROUTING        = 0x4008ae6a
	KVM_IRQFD                  = 0x4020ae76
	KVM_CREATE_PIT2            = 0x4040ae77
	KVM_IOEVENTFD              = 0x4040ae79
	KVM_SET_CLOCK              = 0x4030ae7b
	KVM_GET_CLOCK              = 0x8030ae7c
	KVM_RUN                    = 0xae80
	KVM_GET_REGS               = 0x8090ae81
	KVM_SET_REGS               = 0x4090ae82
	KVM_GET_SREGS              = 0x8138ae83
	KVM_SET_SREGS              = 0x4138ae84
	KVM_TRANSLATE              = 0xc018ae85
	KVM_GET_MSRS               = 0xc008ae88
	KVM_SET_MSRS               = 0x4008ae89
	KVM_SET_SIGNAL_MASK        = 0x4004ae8b
	KVM_GET_FPU                = 0x81a0ae8c
	KVM_SET_FPU                = 0x41a0ae8d
	KVM_GET_LAPIC              = 0x8400ae8e
	KVM_SET_LAPIC              = 0x4400ae8f
	KVM_SET_CPUID2             = 0x4008ae90
	KVM_GET_CPUID2             = 0xc008ae91
	KVM_GET_MP_STATE           = 0x8004ae98
	KVM_SET_MP_STATE           = 0x4004ae99
	KVM_NMI                    = 0xae9a
	KVM_GET_VCPU_EVENTS        = 0x8040ae9f
	KVM_GET_PIT2               = 0x8070ae9f
	KVM_SET_VCPU_EVENTS        = 0x4040aea0
	KVM_SET_PIT2               = 0x4070aea0
	KVM_GET_DEBUGREGS          = 0x8080aea1
	KVM_SET_DEBUGREGS          = 0x4080aea2
	KVM_SET_TSC_KHZ            = 0xaea2
	KVM_GET_TSC_KHZ            = 0xaea3
	KVM_ENABLE_CAP             = 0x4068aea3
	KVM_GET_XSAVE              = 0x9000aea4
	KVM_SET_XSAVE              = 0x5000aea5
	KVM_SIGNAL_MSI             = 0x4020aea5
	KVM_GET_XCRS               = 0x8188aea6
	KVM_SET_XCRS               = 0x4188aea7
	KVM_KVMCLOCK_CTRL          = 0xaead
	KVM_GET_NESTED_STATE       = 0xc080aebe
	KVM_SET_NESTED_STATE       = 0x4080aebf
	KVM_CLEAR_DIRTY_LOG        = 0xc018aec0
	KVM_GET_XSAVE2             = 0x9000aecf
)

// KVM_API_VERSION is the only version there has been since Linux 2.6.22.
const KVM_API_VERSION = 12

// Cap is an extension that KVM may have, for CheckExtension.
type Cap uintptr

// Extensions, by the kernel's names and numbers.
const (
	KVM_CAP_IRQCHIP               Cap = 0
	KVM_CAP_USER_MEMORY           Cap = 3
	KVM_CAP_SET_TSS_ADDR          Cap = 4
	KVM_CAP_EXT_CPUID             Cap = 7
	KVM_CAP_NR_VCPUS              Cap = 9
	KVM_CAP_MP_STATE              Cap = 14
	KVM_CAP_IRQFD                 Cap = 32
	KVM_CAP_PIT2                  Cap = 33
	KVM_CAP_IOEVENTFD             Cap = 36
	KVM_CAP_SET_IDENTITY_MAP_ADDR Cap = 37
	KVM_CAP_ADJUST_CLOCK          Cap = 39
	KVM_CAP_VCPU_EVENTS           Cap = 41
	KVM_CAP_DEBUGREGS             Cap = 50
	KVM_CAP_XSAVE                 Cap = 55
	KVM_CAP_XCRS                  Cap = 56
	KVM_CAP_TSC_CONTROL           Cap = 60
	KVM_CAP_GET_TSC_KHZ           Cap = 61
	KVM_CAP_MAX_VCPUS             Cap = 66
	KVM_CAP_TSC_DEADLINE_TIMER    Cap = 72
	KVM_CAP_SIGNAL_MSI            Cap = 77
	KVM_CAP_READONLY_MEM          Cap = 81
	KVM_CAP_IMMEDIATE_EXIT        Cap = 136
	KVM_CAP_X86_DISABLE_EXITS     Cap = 143
	KVM_CAP_NESTED_STATE          Cap = 157
	KVM_CAP_XSAVE2                Cap = 208
)

// needed lists the extensions that hull cannot do without, for Probe.
var needed = []struct {
	cap  Cap
	name string
}{
	{KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
	{KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
	{KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
	{KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
	{KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
	{KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
	{KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR"},
	{KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
	{KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
}
