package boot

func (l *loader) writeACPI() (rsdp uint64, err error) { return 0, nil }
