package main

import (
	"github.com/spf13/cobra"
)

// The groups that the help of hull lists its commands in.
const (
	groupContainers = "containers"
	groupImages     = "images"
	groupStorage    = "storage"
	groupHost       = "host"
	groupOwn        = "" // for hull itself: no help lists them
)

// entry is a command of the top level. To make one takes time, flags above all, and every start of hull needs one only.
type entry struct {
	group, name string
	construct   func(*app) *cobra.Command
}

// entries lists the commands of the top level.
func entries() []entry {
	return []entry{
		{groupContainers, "attach", newAttach},
		{groupContainers, "checkpoint", newCheckpoint},
		{groupContainers, "commit", newCommit},
		{groupContainers, "container", newContainer},
		{groupContainers, "cp", newCopy},
		{groupContainers, "create", newCreate},
		{groupContainers, "diff", newDiff},
		{groupContainers, "events", newEvents},
		{groupContainers, "exec", newExec},
		{groupContainers, "export", newExport},
		{groupContainers, "fork", newFork},
		{groupContainers, "inspect", newInspect},
		{groupContainers, "kill", newKill},
		{groupContainers, "logs", newLogs},
		{groupContainers, "metrics", newMetrics},
		{groupContainers, "pause", newPause},
		{groupContainers, "port", newPort},
		{groupContainers, "ps", newPS},
		{groupContainers, "rename", newRename},
		{groupContainers, "restart", newRestart},
		{groupContainers, "restore", newRestore},
		{groupContainers, "rm", newRemove},
		{groupContainers, "run", newRun},
		{groupContainers, "snapshot", newSnapshot},
		{groupContainers, "start", newStart},
		{groupContainers, "stats", newStats},
		{groupContainers, "stop", newStop},
		{groupContainers, "top", newTop},
		{groupContainers, "unpause", newUnpause},
		{groupContainers, "update", newUpdate},
		{groupContainers, "wait", newWait},
		{groupImages, "history", newHistory},
		{groupImages, "image", newImage},
		{groupImages, "images", newImages},
		{groupImages, "import", newImport},
		{groupImages, "load", newLoad},
		{groupImages, "login", newLogin},
		{groupImages, "logout", newLogout},
		{groupImages, "pull", newPull},
		{groupImages, "push", newPush},
		{groupImages, "rmi", newRemoveImage},
		{groupImages, "save", newSave},
		{groupImages, "tag", newTag},
		{groupStorage, "network", newNetwork},
		{groupStorage, "volume", newVolume},
		{groupHost, "boot", newBoot},
		{groupHost, "completion", newCompletion},
		{groupHost, "doctor", newDoctor},
		{groupHost, "jail", newJail},
		{groupHost, "system", newSystem},
		{groupHost, "version", newVersion},
		{groupHost, "vmm", newVMM},
		{groupOwn, "supervise", newSupervise},
		{groupOwn, "template", newTemplate},
	}
}

// asked lists what a command line can be about: the command that it begins with, or, when that is not one of ours (it
// is cobra's help or completion, a flag, or nothing that there is), all of them.
func asked(args []string) []entry {
	all := entries()
	if len(args) > 0 {
		for i := range all {
			if all[i].name == args[0] {
				return all[i : i+1]
			}
		}
	}
	return all
}
