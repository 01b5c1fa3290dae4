package agent

func helperAgent() {}
