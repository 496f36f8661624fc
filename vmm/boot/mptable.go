package boot

func (l *loader) writeMPTable() error { return nil }
