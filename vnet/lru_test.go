package vnet

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// keys lists an lru's keys, the oldest first.
func keys(l *lru[int, string]) []int {
	var ks []int
	for e := range l.all {
		ks = append(ks, e.key)
	}
	return ks
}

func TestLRU(t *testing.T) {
	t.Parallel()
	var l lru[int, string]
	if l.oldest() != nil || l.len() != 0 || l.find(1) != nil || keys(&l) != nil {
		t.Error("the zero lru is not empty")
	}
	for i := range 4 {
		l.insert(i, fmt.Sprint(i))
	}
	l.touch(l.find(1))
	l.touch(l.find(1))
	if got := keys(&l); !slices.Equal(got, []int{0, 2, 3, 1}) {
		t.Errorf("after a touch of 1: %v", got)
	}
	l.remove(l.find(0))
	l.remove(l.find(3))
	if got := keys(&l); !slices.Equal(got, []int{2, 1}) || l.oldest().key != 2 || l.len() != 2 || l.find(3) != nil {
		t.Errorf("after removing 0 and 3: %v", got)
	}
	for e := range l.all {
		l.remove(e) // while walking
	}
	if l.len() != 0 || l.oldest() != nil {
		t.Errorf("after removing all: %v", keys(&l))
	}
	l.insert(9, "again")
	for range l.all {
		break
	}
	if l.oldest().value != "again" {
		t.Error("an emptied lru can't be used again")
	}
}

// TestLRUModel compares with a slice that is kept in order.
func TestLRUModel(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 4))
	var l lru[int, string]
	var model []int
	for range 5000 {
		k := rnd.IntN(20)
		i := slices.Index(model, k)
		switch e := l.find(k); {
		case (e != nil) != (i >= 0):
			t.Fatalf("find(%d) = %v, model %v", k, e, model)
		case e == nil:
			l.insert(k, "")
			model = append(model, k)
		case rnd.IntN(2) == 0:
			l.touch(e)
			model = append(slices.Delete(model, i, i+1), k)
		default:
			l.remove(e)
			model = slices.Delete(model, i, i+1)
		}
		if got := keys(&l); !slices.Equal(got, model) {
			t.Fatalf("got %v, want %v", got, model)
		}
	}
}
