package bad

import "C"

import "os"

func takesInt(int) {}

func wrong() {
	takesInt("six")
	os.NoSuchThing()
	unused := C.whatever()
}
