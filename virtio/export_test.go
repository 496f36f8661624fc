package virtio

// NewQueue gives tests of this package's API a queue without a transport.
var NewQueue = newQueue

// MaxPieces is the limit on the descriptors of a chain.
const MaxPieces = maxPieces
