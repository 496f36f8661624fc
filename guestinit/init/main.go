// Command init is the first program of a hull guest. Package guestinit is what it does.
package main

import "github.com/hullvm/hull/guestinit"

func main() { guestinit.Main() }
