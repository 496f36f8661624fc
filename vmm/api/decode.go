package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// decode reads a body into the struct that to points to, as strictly as the API is described: names are exact and known,
// none is there twice, none is missing, and numbers fit their types. Its messages are those that clients of the API know, from the
// JSON library of its first implementation.
//
// What a field may be follows from its Go type. A pointer or a slice may be left out or null; any other field must be there
// unless its tag `api` says "optional", or "=" and the string that it is then. A named string type with a method variants has those values only. json.RawMessage takes
// anything.
func decode(body []byte, to any) error {
	root, err := parse(body)
	if err != nil {
		return err
	}
	return root.decode(reflect.ValueOf(to).Elem())
}

// maxDepth is how deep values may lie within one another.
const maxDepth = 128

// jsonError is what is wrong with a body, and where if that is known: the offset of the byte after it.
type jsonError struct {
	message string
	body    []byte
	offset  int
}

func (e *jsonError) Error() string {
	if e.body == nil {
		return e.message
	}
	before := e.body[:min(e.offset, len(e.body))]
	line := bytes.Count(before, []byte("\n")) + 1
	return fmt.Sprintf("%s at line %d column %d", e.message, line, len(before)-bytes.LastIndexByte(before, '\n')-1)
}

// node is a JSON value with its place in the body.
type node struct {
	body   []byte
	raw    []byte // the value's text
	end    int    // offset of the byte after it
	kind   byte   // '{', '[', '"', '0', 't', 'f', 'n'
	text   string // of a string, a number or a name
	fields []field
	items  []*node
}

type field struct {
	name  string
	end   int // offset of the byte after the name
	value *node
}

func (n *node) fail(format string, args ...any) error {
	return &jsonError{fmt.Sprintf(format, args...), n.body, n.end}
}

// parse takes a body apart.
func parse(body []byte) (*node, error) {
	p := &parser{body: body, dec: json.NewDecoder(bytes.NewReader(body))}
	p.dec.UseNumber()
	root, err := p.value(0)
	if err != nil {
		return nil, err
	}
	if rest := bytes.TrimLeft(body[root.end:], " \t\r\n"); len(rest) > 0 {
		return nil, &jsonError{"trailing characters", body, len(body) - len(rest) + 1}
	}
	return root, nil
}

type parser struct {
	body []byte
	dec  *json.Decoder
}

func (p *parser) token() (json.Token, error) {
	t, err := p.dec.Token()
	if err == nil {
		return t, nil
	}
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) { // the body has ended
		return nil, &jsonError{"EOF while parsing a value", p.body, len(p.body)}
	}
	// The decoder's offset is where it stands; syntax.Offset counts from there or from the start, by what it was reading.
	at := min(max(int(syntax.Offset), int(p.dec.InputOffset())+1), len(p.body))
	return nil, &jsonError{"expected value", p.body, at}
}

// value reads one value.
func (p *parser) value(depth int) (*node, error) {
	start := p.skip()
	t, err := p.token()
	if err != nil {
		return nil, err
	}
	n := &node{body: p.body}
	switch t := t.(type) {
	case json.Delim:
		if depth == maxDepth {
			return nil, &jsonError{"recursion limit exceeded", p.body, int(p.dec.InputOffset())}
		}
		if n.kind = byte(t); n.kind == '{' {
			err = p.object(n, depth)
		} else {
			err = p.array(n, depth)
		}
		if err == nil {
			_, err = p.token() // the closing one
		}
		if err != nil {
			return nil, err
		}
	case string:
		n.kind, n.text = '"', t
	case json.Number:
		n.kind, n.text = '0', t.String()
	case bool:
		if n.kind = 'f'; t {
			n.kind = 't'
		}
	case nil:
		n.kind = 'n'
	}
	n.end = int(p.dec.InputOffset())
	n.raw = p.body[start:n.end]
	return n, nil
}

// skip returns where the next value begins.
func (p *parser) skip() int {
	at := int(p.dec.InputOffset())
	for at < len(p.body) && strings.IndexByte(" \t\r\n,:", p.body[at]) >= 0 {
		at++
	}
	return at
}

func (p *parser) object(n *node, depth int) error {
	for p.dec.More() {
		t, err := p.token()
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok {
			return &jsonError{"key must be a string", p.body, int(p.dec.InputOffset())}
		}
		f := field{name: name, end: int(p.dec.InputOffset())}
		if f.value, err = p.value(depth + 1); err != nil {
			return err
		}
		n.fields = append(n.fields, f)
	}
	return nil
}

func (p *parser) array(n *node, depth int) error {
	for p.dec.More() {
		v, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		n.items = append(n.items, v)
	}
	return nil
}

// what describes a value for "invalid type".
func (n *node) what() string {
	switch n.kind {
	case '{':
		return "map"
	case '[':
		return "sequence"
	case '"':
		return fmt.Sprintf("string %q", n.text)
	case 't':
		return "boolean `true`"
	case 'f':
		return "boolean `false`"
	case 'n':
		return "null"
	}
	if strings.ContainsAny(n.text, ".eE") {
		return "floating point `" + n.text + "`"
	}
	return "integer `" + n.text + "`"
}

func (n *node) wrongType(want string) error {
	return n.fail("invalid type: %s, expected %s", n.what(), want)
}

// chosen is a string of which only some values mean something.
type chosen interface{ variants() []string }

var rawMessage = reflect.TypeFor[json.RawMessage]()

func (n *node) decode(to reflect.Value) error {
	t := to.Type()
	if t == rawMessage {
		to.SetBytes(slices.Clone(n.raw))
		return nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		if n.kind == 'n' {
			to.SetZero()
			return nil
		}
		v := reflect.New(t.Elem())
		if err := n.decode(v.Elem()); err != nil {
			return err
		}
		to.Set(v)
		return nil
	case reflect.Struct:
		return n.decodeStruct(to)
	case reflect.Slice:
		if n.kind == 'n' {
			to.SetZero()
			return nil
		}
		if n.kind != '[' {
			return n.wrongType("a sequence")
		}
		list := reflect.MakeSlice(t, len(n.items), len(n.items))
		for i, item := range n.items {
			if err := item.decode(list.Index(i)); err != nil {
				return err
			}
		}
		to.Set(list)
		return nil
	case reflect.Map:
		if n.kind != '{' {
			return n.wrongType("a map")
		}
		m := reflect.MakeMapWithSize(t, len(n.fields))
		for _, f := range n.fields {
			v := reflect.New(t.Elem()).Elem()
			if err := f.value.decode(v); err != nil {
				return err
			}
			m.SetMapIndex(reflect.ValueOf(f.name), v)
		}
		to.Set(m)
		return nil
	case reflect.Bool:
		if n.kind != 't' && n.kind != 'f' {
			return n.wrongType("a boolean")
		}
		to.SetBool(n.kind == 't')
		return nil
	case reflect.String:
		return n.decodeString(to)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return n.decodeUint(to)
	}
	return n.fail("a field of type %v", t)
}

func (n *node) decodeString(to reflect.Value) error {
	c, limited := to.Interface().(chosen)
	if n.kind != '"' {
		if limited {
			return n.wrongType("variant identifier")
		}
		return n.wrongType("a string")
	}
	if limited && !slices.Contains(c.variants(), n.text) {
		return n.fail("unknown variant `%s`, expected %s", n.text, oneOf(c.variants()))
	}
	to.SetString(n.text)
	return nil
}

func (n *node) decodeUint(to reflect.Value) error {
	bits := to.Type().Bits()
	want := "u" + strconv.Itoa(bits)
	if n.kind != '0' || strings.ContainsAny(n.text, ".eE") {
		return n.wrongType(want)
	}
	v, err := strconv.ParseUint(n.text, 10, 64)
	if err != nil || bits < 64 && v > math.MaxUint64>>(64-bits) {
		return n.fail("invalid value: integer `%s`, expected %s", n.text, want)
	}
	to.SetUint(v)
	return nil
}

// name is a struct field's name in JSON.
func name(f reflect.StructField) string {
	tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return tag
}

func (n *node) decodeStruct(to reflect.Value) error {
	t := to.Type()
	if n.kind != '{' {
		return n.wrongType("struct " + t.Name())
	}
	var known []string
	index := make(map[string]int)
	for i := range t.NumField() {
		known = append(known, name(t.Field(i)))
		index[known[i]] = i
	}
	seen := make([]bool, len(known))
	for _, f := range n.fields {
		i, ok := index[f.name]
		if !ok {
			return &jsonError{fmt.Sprintf("unknown field `%s`, expected %s", f.name, oneOf(known)), n.body, f.end}
		}
		if seen[i] {
			return &jsonError{fmt.Sprintf("duplicate field `%s`", f.name), n.body, f.end}
		}
		seen[i] = true
		if err := f.value.decode(to.Field(i)); err != nil {
			return err
		}
	}
	for i, ok := range seen {
		if ok {
			continue
		}
		tag := t.Field(i).Tag.Get("api")
		if value, ok := strings.CutPrefix(tag, "="); ok {
			to.Field(i).SetString(value)
			continue
		}
		if kind := t.Field(i).Type.Kind(); kind != reflect.Pointer && kind != reflect.Slice && tag != "optional" {
			return n.fail("missing field `%s`", known[i])
		}
	}
	return nil
}

// oneOf lists what would have been right.
func oneOf(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = "`" + s + "`"
	}
	switch len(quoted) {
	case 0:
		return "nothing"
	case 1:
		return quoted[0]
	case 2:
		return quoted[0] + " or " + quoted[1]
	}
	return "one of " + strings.Join(quoted, ", ")
}
