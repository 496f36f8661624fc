package api

// createSnapshot and loadSnapshot read their requests as strictly as all others are read, and refuse them.

func (s *Server) createSnapshot(*snapshotCreate) (any, error) {
	if !s.paused {
		return nil, refuse("Create snapshot error: The microVM must be paused first.")
	}
	return nil, notOffered("snapshots over this API yet")
}

func (s *Server) loadSnapshot(l *snapshotLoad) (any, error) {
	switch {
	case l.MemBackend != nil && l.MemFilePath != nil:
		return nil, &jsonError{message: "too many fields: either `mem_backend` or `mem_file_path` exclusively is required"}
	case l.MemBackend == nil && l.MemFilePath == nil:
		return nil, &jsonError{message: "missing field: either `mem_backend` or `mem_file_path` is required"}
	case s.resources.touched:
		return nil, refuse("Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.")
	}
	return nil, notOffered("snapshots over this API yet")
}
