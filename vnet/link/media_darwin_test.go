package link

func platformMedia() []medium { return unixMedia() }
