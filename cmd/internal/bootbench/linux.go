package main

func linux(o options) error { return nil }
