package vmm

import "context"

// Run makes a machine, lets it run until its guest ends, and gives everything back. When ctx ends first, the guest is
// stopped: then the error is ctx's, and the Result says how far it was. Other errors mean that the guest did not run, or that
// something could not be given back.
func Run(ctx context.Context, cfg Config, options ...Option) (_ Result, err error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	m, err := New(cfg, options...)
	if err != nil {
		return Result{}, err
	}
	defer func() {
		if e := m.Close(); err == nil {
			err = e
		}
	}()
	if err := m.Start(); err != nil {
		return Result{}, err
	}
	return m.WaitContext(ctx)
}

// WaitContext is Wait that ends with ctx: it stops the guest then, and returns ctx's error.
func (m *Machine) WaitContext(ctx context.Context) (Result, error) {
	select {
	case <-m.done:
		return m.result, nil
	case <-ctx.Done():
		m.Stop(context.Cause(ctx).Error())
		return m.Wait(), ctx.Err()
	}
}
